"""The steps of segmentation, against numbers made by plain NumPy and scikit-learn."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from cifar_jax import steps
from cifar_jax.data.masks import VOID
from cifar_jax.inference import evaluate
from cifar_jax.runtime import parallel
from cifar_jax.steps import augment, optimizer, state

CLASSES, SIZE = 3, 8


class Network(nn.Module):
    """Scores each pixel by its colour alone."""

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(CLASSES, name="head")(images)


def make_task(config, mean=(0.5,) * 3, std=(0.25,) * 3):
    config.model.fcn_stride = 1
    config.dataset.image_size = SIZE
    chain = optimizer.create_optimizer(config.optimizer, lambda step: 0.1)
    kind = steps.kind_of(config.model)
    return steps.Task(Network(), chain, config, CLASSES, mean, std, SIZE, kind=kind)


def random_data(count, seed=0):
    """Images and masks, about a third of whose pixels is void; the first mask has fewer, the second all."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    masks = rng.choice(np.uint8([0, 1, 2, VOID]), (count, SIZE, SIZE), p=(0.3, 0.2, 0.15, 0.35))
    masks[0] = 1
    masks[1] = VOID
    return images, masks


def variables_of(task):
    return jax.device_get(state.init_variables(task.model, 0, SIZE))


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_a_mask_is_cropped_flipped_and_enlarged_as_its_image(config, mode):
    config.augment.crop_padding, config.augment.padding_mode = 2, mode
    config.augment.flip = True
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 200, (6, SIZE, SIZE)).astype(np.uint8)
    images = np.stack([labels] * 3, axis=-1)
    # With this mean and deviation, normalised pixels are the stored numbers.
    scale = ((0.0,) * 3, (1 / 255,) * 3)
    places, key = np.arange(6), jax.random.key(3)

    @functools.partial(jax.jit, static_argnames="size")
    def augmented(labels=None, size=None):
        return augment.augment(
            key, places, images, config.augment, *scale, size=size, labels=labels
        )

    alone = augmented()
    pixels, moved = jax.device_get(augmented(labels))
    np.testing.assert_array_equal(pixels, alone)
    numbers = np.rint(pixels[..., 0]).astype(np.uint8)
    np.testing.assert_array_equal(numbers, np.where(moved == VOID, 0, moved))
    assert (moved == VOID).any() == (mode == "constant")
    assert (moved != labels).any()
    _, large = augmented(labels, 2 * SIZE)
    np.testing.assert_array_equal(large, moved.repeat(2, axis=1).repeat(2, axis=2))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_over_the_pixels_of_the_global_batch(config, smoothing):
    """Also if the devices have different numbers of void pixels."""
    config.batch_size, config.label_smoothing = 4, smoothing
    task = make_task(config)
    _, labels = random_data(4)
    logits = np.random.default_rng(1).normal(size=(*labels.shape, CLASSES)).astype(np.float32)

    def of_device(logits, labels):
        loss, correct = task.kind.loss(task, logits, labels, labels)
        return jax.lax.pmean(loss, parallel.AXIS), jax.lax.psum(correct, parallel.AXIS)

    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = np.eye(CLASSES)[np.where(labels == VOID, 0, labels)]
    targets = (1 - smoothing) * targets + smoothing / CLASSES
    counted = labels != VOID
    loss = -(targets * log_p).sum(-1)[counted].mean()
    right = (logits.argmax(-1) == labels)[counted].mean()
    for devices in (1, 2):
        shape = (devices, 4 // devices)
        split = (x.reshape(*shape, *x.shape[1:]) for x in (logits, labels))
        found = jax.jit(jax.vmap(of_device, axis_name=parallel.AXIS))(*split)
        np.testing.assert_allclose(found[0], loss, rtol=1e-5)
        np.testing.assert_allclose(found[1], 4 * right, rtol=1e-6)


def test_a_batch_of_void_pixels_gives_no_nan(config):
    config.batch_size = 2
    task = make_task(config)
    labels = np.full((2, SIZE, SIZE), VOID, np.uint8)
    logits = jnp.ones((2, SIZE, SIZE, CLASSES))
    found = jax.vmap(lambda *args: task.kind.loss(task, *args, labels), axis_name=parallel.AXIS)(
        logits[None], labels[None]
    )
    assert [float(x[0]) for x in found] == [0.0, 0.0]


@pytest.mark.parametrize("views", ["none", "mirror"])
def test_evaluation_counts_every_pixel_once(config, views):
    config.eval_batch_size = 4
    task = make_task(config)
    images, labels = random_data(7)
    variables = variables_of(task)
    data = parallel.place((images, labels))
    sums = steps.eval_sums(task, views, keep=True)
    names = tuple("abc")
    result = evaluate.evaluate(sums, parallel.replicate(variables), data, names)

    def logits_of(images):
        inputs = augment.network_input(images, SIZE, task.mean, task.std)
        return task.model.apply(variables, inputs, train=False)

    logits = logits_of(images)
    if views == "mirror":
        logits = (logits + logits_of(images[:, :, ::-1])[:, :, ::-1]) / 2
    predicted, counted = np.argmax(logits, -1), labels != VOID
    np.testing.assert_array_equal(result.predictions, predicted)
    truth, guess = labels[counted], predicted[counted]
    log_p = np.asarray(jax.nn.log_softmax(logits))[counted]
    assert result.count == counted.sum()
    assert result.loss == pytest.approx(-log_p[np.arange(len(truth)), truth].mean(), rel=1e-5)
    assert result.accuracy == (truth == guess).mean()
    ious = jaccard_score(truth, guess, average=None)
    assert list(result.iou_per_class.values()) == pytest.approx(list(ious))
    assert result.mean_iou == pytest.approx(ious.mean())


def test_a_step_is_the_same_on_two_devices(config, monkeypatch):
    config.batch_size = 4
    config.augment.crop_padding = 1
    task = make_task(config)
    data = random_data(4)
    first = state.create_state(variables_of(task), task.optimizer, False, task.kind.correct_dtype)
    results = {}
    for devices in (1, 2):
        monkeypatch.setattr(jax, "device_count", lambda devices=devices: devices)

        def step(state):
            order = steps.epoch_order(0, 0, 4)
            return steps.train_step(task, state, jax.tree.map(jnp.asarray, data), order)

        states = jax.tree.map(lambda x, devices=devices: jnp.stack([x] * devices), first)
        results[devices] = jax.device_get(jax.jit(jax.vmap(step, axis_name=parallel.AXIS))(states))
    one, two = results[1], results[2]
    assert float(one.metrics.loss[0]) == pytest.approx(float(two.metrics.loss[0]), rel=1e-5)
    assert float(one.metrics.correct[0]) == pytest.approx(float(two.metrics.correct[0]))
    for alone, shared in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
        np.testing.assert_allclose(shared[0], alone[0], rtol=0, atol=2e-5 * np.abs(alone).max())
