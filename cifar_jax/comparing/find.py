"""Finds the runs of a comparison: workdirs by name, in folders, and by patterns."""

import glob
import os
from collections.abc import Sequence

from cifar_jax.storage import workdir as files_of
from cifar_jax.system import files


def runs(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """(workdirs that the paths name or contain, each once; a line for each path that gives none)."""
    workdirs, skipped = {}, []
    for path in paths:
        # The name of an existing folder may contain brackets or stars.
        for match in [path] if os.path.exists(path) else sorted(glob.glob(path)) or [path]:
            below, errors = _runs_below(match)
            workdirs |= {os.path.realpath(run): run for run in below}
            # A pattern may match other things than runs (notes, an earlier comparison).
            if not below and not errors and match == path:
                exists = os.path.isdir(match)
                why = "holds no run" if exists else "there is no such folder"
                skipped.append(f"{files.shown(match)}: {why}")
            skipped += [f"{files.shown(e.filename)}: {files.reason(e)}" for e in errors]
    return list(workdirs.values()), skipped


def _runs_below(folder: str) -> tuple[list[str], list[OSError]]:
    """(workdirs in a folder, the errors of folders that are there and cannot be read)."""
    found, errors = [], []
    for path, folders, _ in os.walk(folder, onerror=errors.append):
        folders[:] = sorted(set(folders) - files.SYSTEM_FOLDERS)
        if files_of.has_run(path):
            found.append(os.path.normpath(path))
            folders.clear()
    missing = (FileNotFoundError, NotADirectoryError)
    return found, [error for error in errors if not isinstance(error, missing)]
