"""Each network gives the logits and gradients of a PyTorch network with the same weights.

Both run in float64, so that rounding cannot hide a small difference in a formula: an epsilon of 1e-5, n or
n - 1, a pixel of padding. A float32 run then differs only by rounding.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax.models import create_model, layers

torch = pytest.importorskip("torch")
from tests.helpers import torch_twins as twins  # noqa: E402

CLASSES = 5

# Name, options, image height and width, the PyTorch network. Sides are odd or unequal if the network
# allows it, because paddings differ there.
CASES = {
    "linear": ("linear", {}, (3, 4), lambda: twins.Linear(36, CLASSES)),
    "lenet": ("lenet", {}, (32, 32), lambda: twins.LeNet(CLASSES)),
    "cnn stride": (
        "cnn",
        {"downsample": "stride", "batch_norm": True},
        (18, 15),
        lambda: twins.CNN(CLASSES, 16 * 2 * 1, "stride", batch_norm=True),
    ),
    "cnn max_pool": (
        "cnn",
        {"downsample": "max_pool", "activation": "leaky_relu"},
        (20, 17),
        lambda: twins.CNN(CLASSES, 16 * 2 * 1, "max_pool", "leaky_relu"),
    ),
    "resnet8_v1": (
        "resnet8_v1",
        {"width": 0.25},
        (9, 7),
        lambda: twins.ResNet(CLASSES, (1,) * 3, 4),
    ),
    "resnet8_v1 zero_padding": (
        "resnet8_v1",
        {"width": 0.25, "shortcut": "zero_padding"},
        (9, 7),
        lambda: twins.ResNet(CLASSES, (1,) * 3, 4, zero_padding=True),
    ),
    "resnet20_v2": (
        "resnet20_v2",
        {"width": 0.125},
        (9, 7),
        lambda: twins.ResNet(CLASSES, (3,) * 3, 2, pre_activation=True),
    ),
    "resnet18 cifar": (
        "resnet18",
        {"width": 0.0625},
        (9, 11),
        lambda: twins.ResNet(CLASSES, (2,) * 4, 4),
    ),
    "resnet18 imagenet": (
        "resnet18",
        {"width": 0.0625, "stem": "imagenet"},
        (34, 29),
        lambda: twins.ResNet(CLASSES, (2,) * 4, 4, imagenet_stem=True),
    ),
    "mobilenet_v2": (
        "mobilenet_v2",
        {"width": 0.35},
        (9, 10),
        lambda: twins.MobileNetV2(CLASSES, 0.35),
    ),
    "resnet8_v1 whitening": (
        "resnet8_v1",
        {"width": 0.25, "whitening": True},
        (9, 7),
        lambda: twins.ResNet(CLASSES, (1,) * 3, 4, whitening=True),
    ),
    # Fully convolutional. Some sides are padded and cut, others are divisible by the largest stride.
    "fcn resnet8_v1": (
        "resnet8_v1",
        {"width": 0.25, "fcn_stride": 1},
        (9, 7),
        lambda: twins.ResNet(CLASSES, (1,) * 3, 4, fcn_stride=1),
    ),
    "fcn resnet8_v2": (
        "resnet8_v2",
        {"width": 0.25, "fcn_stride": 4},
        (12, 8),
        lambda: twins.ResNet(CLASSES, (1,) * 3, 4, pre_activation=True, fcn_stride=4),
    ),
    "fcn resnet18": (
        "resnet18",
        {"width": 0.0625, "stem": "imagenet", "fcn_stride": 8},
        (40, 33),
        lambda: twins.ResNet(CLASSES, (2,) * 4, 4, imagenet_stem=True, fcn_stride=8),
    ),
    "fcn mobilenet_v2": (
        "mobilenet_v2",
        {"width": 0.35, "fcn_stride": 2},
        (9, 16),
        lambda: twins.MobileNetV2(CLASSES, 0.35, fcn_stride=2),
    ),
    "airbench94": (
        "airbench94",
        {"width": 1 / 16},
        (17, 18),
        lambda: twins.Airbench(CLASSES, (4, 16, 16)),
    ),
    "airbench96": (
        "airbench96",
        {"width": 1 / 32},
        (16, 17),
        lambda: twins.Airbench(CLASSES, (4, 12, 16), convolutions=3),
    ),
} | {
    f"mlp {activation}{' batch_norm' if batch_norm else ''}": (
        "mlp",
        {"hidden_sizes": (9, 7), "activation": activation, "batch_norm": batch_norm},
        (3, 4),
        lambda activation=activation, batch_norm=batch_norm: twins.MLP(
            36, CLASSES, (9, 7), activation, batch_norm
        ),
    )
    for activation, batch_norm in [
        ("relu", True),
        ("leaky_relu", False),
        ("selu", False),
        ("gelu", False),
        ("silu", False),
    ]
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("shallow_mobilenet")
def test_equals_pytorch_in_evaluation_and_in_training(case, monkeypatch):
    monkeypatch.setattr(twins.MobileNetV2, "SETTING", twins.MobileNetV2.SETTING[:3])
    name, options, (height, width), make_twin = CASES[case]
    rng = np.random.default_rng(0)
    images = rng.normal(size=(6, height, width, 3))
    size = (6, height, width) if "fcn_stride" in options else 6
    labels = rng.integers(0, CLASSES, size=size)
    with jax.enable_x64(True):
        model = create_model(name, CLASSES, dtype="float64", **options)
        variables = random_variables(model, images, rng)
        ours = evaluate_and_train(model)(variables, images, labels)
        ours = jax.tree.map(np.asarray, ours)
    eval_logits, train_logits, loss, gradients, batch_stats = ours

    twin = make_twin().double()
    counters = {k: v for k, v in twin.state_dict().items() if k.endswith("num_batches_tracked")}
    twin.load_state_dict(twins.state_dict(variables) | counters, strict=True)
    inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    twin.eval()
    assert_close(eval_logits, channel_last(twin(inputs).detach()))
    twin.train()
    twin_logits = twin(inputs)
    twin_loss = torch.nn.functional.cross_entropy(twin_logits, torch.from_numpy(labels))
    twin_loss.backward()
    assert_close(train_logits, channel_last(twin_logits.detach()))
    assert_close(loss, twin_loss.detach())
    found = twins.state_dict({"params": gradients})
    expected = {
        key: parameter.grad for key, parameter in twin.named_parameters() if parameter.requires_grad
    }
    assert found.keys() == expected.keys()
    # Some gradients are zero in theory, so errors are relative to the network's largest gradient.
    scale = max(float(value.abs().max()) for value in expected.values())
    for key in expected:
        assert_close(found[key], expected[key], scale)
    expected = twin.state_dict()
    for key, value in twins.state_dict({"batch_stats": batch_stats}).items():
        assert_close(value, expected[key])


def channel_last(logits):
    return logits.permute(0, 2, 3, 1) if logits.ndim == 4 else logits


def random_variables(model, images, rng):
    """Random float64 variables that keep activations near 1. None has its default value."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(images))

    def draw(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            return rng.normal(size=leaf.shape) * (2.0 / np.prod(leaf.shape[:-1])) ** 0.5
        if kind in ("scale", "var"):
            return rng.uniform(0.5, 1.5, size=leaf.shape)
        return rng.normal(size=leaf.shape) * 0.3

    return jax.tree_util.tree_map_with_path(draw, shapes)


def evaluate_and_train(model):
    """(variables, images, labels) -> logits in eval and train, loss, gradients, running statistics."""

    @jax.jit
    def run(variables, images, labels):
        others = {key: value for key, value in variables.items() if key != "params"}

        def loss_fn(params):
            logits, updated = model.apply(
                {"params": params, **others}, images, train=True, mutable=["batch_stats"]
            )
            log_probabilities = jax.nn.log_softmax(logits)
            loss = -jnp.mean(jnp.take_along_axis(log_probabilities, labels[..., None], -1))
            return loss, (logits, updated.get("batch_stats", {}))

        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (logits, batch_stats)), gradients = gradient(variables["params"])
        return model.apply(variables, images, train=False), logits, loss, gradients, batch_stats

    return run


def assert_close(found, expected, scale=None):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    scale = np.abs(expected).max() if scale is None else scale
    assert np.abs(found - expected).max() <= 1e-9 * scale


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_alpha_dropout_gives_the_two_values_that_pytorch_gives(rate):
    inputs = np.full((1, 10_000), 0.7, np.float32)
    module = layers.AlphaDropout(rate)
    ours = module.apply({}, jnp.asarray(inputs), True, rngs={"dropout": jax.random.key(0)})
    torch.manual_seed(0)
    theirs = torch.nn.functional.alpha_dropout(torch.from_numpy(inputs), rate, training=True)
    np.testing.assert_allclose(np.unique(ours), np.unique(theirs.numpy()), rtol=1e-5)
    # The larger of the two values is that of the kept inputs.
    kept = np.mean(np.asarray(ours) == np.max(ours))
    np.testing.assert_allclose(kept, 1 - rate, atol=0.02)  # 4 standard deviations
