"""Reads TensorBoard events with tensorboardX, independently of the project's writer."""

import os
import struct

from tensorboardX.proto.event_pb2 import Event, SessionLog


def read_events(folder):
    """All events of a folder in TensorBoard's order: files by name, then records in file order."""
    for name in sorted(os.listdir(folder)):
        data = (folder / name).read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]  # a 4-byte checksum follows the data


def shown(folder):
    """{tag: [(step, value)]} as TensorBoard shows it: a session start discards later steps of older ones."""
    scalars = {}
    for event in read_events(folder):
        if event.session_log.status == SessionLog.START:
            for tag, points in scalars.items():
                scalars[tag] = [point for point in points if point[0] < event.step]
        for value in event.summary.value:
            scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    return scalars
