"""The networks, checked against published numbers and formulas and against sums by hand.

test_torch_twins.py compares whole networks with PyTorch's.
"""

import functools
import math

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax.errors import UserError
from cifar_jax.models import HEAD, MODELS, OPTIONS, create_model, model_options

# One network of each family. The others differ only in depth.
FAMILIES = [
    "linear",
    "mlp",
    "lenet",
    "cnn",
    "resnet8_v1",
    "resnet8_v2",
    "resnet18",
    "mobilenet_v2",
    "airbench94",
]


def test_every_kind_of_network_is_tested():
    def kind(name):
        model = create_model(name, 10)
        return type(model), getattr(model, "version", None)

    assert {kind(name) for name in FAMILIES} == {kind(name) for name in MODELS}


def shapes_of(model, side=32):
    """Shapes and dtypes of the variables. Computes nothing."""
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))


def initialised(model, side, *names):
    """The initial variables with these names, such as "params/head/bias". Computes no others."""

    @jax.jit
    def pick(key):
        variables = model.init(key, jnp.zeros((1, side, side, 3)))
        by_name = dict(zip(flat_names(variables), jax.tree.leaves(variables), strict=True))
        return [by_name[name] for name in names]

    return pick(jax.random.key(0))


# --- The registry -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "classes", "expected"),
    [
        ("linear", {}, 10, 3072 * 10 + 10),
        ("mlp", {}, 10, 3072 * 1024 + 1024 + 1024 * 10 + 10),
        ("mlp", {"hidden_sizes": (7, 5)}, 3, 3072 * 7 + 7 + 7 * 5 + 5 + 5 * 3 + 3),
        # Batch norm's two parameters per feature replace the bias.
        ("mlp", {"hidden_sizes": (7,), "batch_norm": True}, 3, 3072 * 7 + 2 * 7 + 7 * 3 + 3),
        ("lenet", {}, 10, 62_006),
        ("cnn", {"downsample": "stride"}, 10, 11_642),
        ("cnn", {"downsample": "max_pool"}, 10, 11_642),
        ("cnn", {"batch_norm": True}, 10, 11_642 + 2 * 16),
        ("resnet20_v2", {}, 10, 272_282),
        # Six more layers than 20 mean one more block in each stage. A block of c channels has two
        # 3x3 convolutions and two batch norms: 18 c^2 + 4 c.
        ("resnet56_v2", {}, 10, 272_282 + 6 * sum(18 * c * c + 4 * c for c in (16, 32, 64))),
        ("resnet110_v2", {}, 10, 272_282 + 15 * sum(18 * c * c + 4 * c for c in (16, 32, 64))),
        # Differences from v2: batch norm after the stem (+32) instead of before the head (-128). The
        # first block of stages 2 and 3 normalises c channels instead of c/2 (+32, +64), and its
        # shortcut has a batch norm (+64, +128).
        ("resnet20_v1", {}, 10, 272_282 + 32 - 128 + 32 + 64 + 64 + 128),
        # Zero padding has neither the shortcuts' convolutions nor their batch norms: 0.27 M, as in table 6
        # of He et al., 2016.
        ("resnet20_v1", {"shortcut": "zero_padding"}, 10, 269_722),
        ("resnet18", {}, 10, 11_173_962),
        # From torchvision's documentation.
        ("resnet18", {"stem": "imagenet"}, 1000, 11_689_512),
        ("resnet34", {"stem": "imagenet"}, 1000, 21_797_672),
        ("mobilenet_v2", {}, 1000, 3_504_872),
        ("mobilenet_v2", {}, 10, 2_236_682),
        # From airbench94_muon.py. Its whitening kernel (288 weights) is not trained, so not counted.
        ("airbench94", {}, 10, 24 + 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256**2) + 1152 + 2560),
        # From legacy/airbench96.py: three convolutions and three biases of batch norm per group.
        (
            "airbench96",
            {},
            10,
            24
            + 9 * (24 * 128 + 2 * 128**2 + 128 * 384 + 2 * 384**2 + 384 * 512 + 2 * 512**2)
            + 3 * (128 + 384 + 512)
            + 5120,
        ),
    ],
)
def test_has_the_published_number_of_parameters(name, options, classes, expected):
    params = shapes_of(create_model(name, classes, **options))["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == expected


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56, 110])
def test_the_depth_of_a_cifar_resnet_counts_its_layers(depth):
    for version in (1, 2):
        params = shapes_of(create_model(f"resnet{depth}_v{version}", 10))["params"]
        names = [path for path in flat_names(params) if path.endswith("kernel")]
        assert len([name for name in names if "shortcut" not in name]) == depth


def test_parameters_are_named_by_stage_block_and_layer():
    params = flat_names(shapes_of(create_model("resnet14_v1", 10))["params"])
    assert "stage1_block2/conv1/kernel" in params
    assert "stage2_block1/shortcut_bn/scale" in params


def flat_names(tree) -> list[str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return ["/".join(key.key for key in path) for path, _ in leaves]


@pytest.mark.parametrize("name", FAMILIES)
def test_only_the_head_depends_on_the_number_of_classes(name):
    few, many = (shapes_of(create_model(name, classes))["params"] for classes in (3, 4))
    assert few[HEAD]["kernel"].shape[-1] == 3
    assert many.pop(HEAD) != few.pop(HEAD)
    assert few == many


def test_a_width_multiplies_the_channels():
    params = shapes_of(create_model("resnet8_v2", 10, width=2.0))["params"]
    assert params["stem_conv"]["kernel"].shape[-1] == 32
    assert params["stage3_block1"]["conv2"]["kernel"].shape == (3, 3, 128, 128)


@pytest.mark.usefixtures("shallow_mobilenet")
def test_every_network_takes_the_options_that_it_names_and_no_others():
    values = {
        "hidden_sizes": [8],
        "activation": "silu",
        "batch_norm": True,
        "dropout": 0.1,
        "width": 0.5,
        "stem": "cifar",
        "downsample": "stride",
        "remat": True,
        "whitening": True,
        "shortcut": "zero_padding",
        "fcn_stride": 2,
    }
    assert set(values) == set(OPTIONS)
    for name in MODELS:
        for option, value in values.items():
            if option in model_options(name):
                model = create_model(name, 10, **{option: value})
                if name in FAMILIES:
                    shapes_of(model)
            else:
                with pytest.raises(UserError, match=option):
                    create_model(name, 10, **{option: value})


def test_an_option_of_none_is_the_default():
    assert create_model("lenet", 10, width=None) == create_model("lenet", 10)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mobilenetv2", {}, 'no model "mobilenetv2", did you mean "mobilenet_v2"'),
        ("vgg", {}, "there are: linear, mlp,"),
        (3, {}, 'no model "3"; there are: linear'),
        (None, {}, 'no model "None"; there are: linear'),
        (["x"], {}, "there are: linear"),
        ("mlp", {"hidden_size": (8,)}, 'did you mean "hidden_sizes"'),
        ("lenet", {"width": 2.0}, "takes none"),
        ("mlp", {"activation": "tanh"}, "relu, leaky_relu, selu, gelu, silu"),
        ("resnet18", {"stem": "big"}, "cifar, imagenet"),
        ("cnn", {"downsample": "pool"}, "stride, max_pool"),
        ("mlp", {"dropout": 1.0}, "model.dropout"),
        ("mlp", {"hidden_sizes": (8, 0)}, "model.hidden_sizes"),
        ("mlp", {"hidden_sizes": (True,)}, "whole numbers of 1 or more, not .True,"),
        ("mlp", {"dropout": False}, "model.dropout must be a number, not False"),
        ("resnet18", {"width": 0.0}, "model.width"),
        ("resnet18", {"width": True}, "model.width must be a number, not True"),
        ("resnet18", {"fcn_stride": 8.0}, "model.fcn_stride is 8.0, but takes one of 1, 2,"),
        ("lenet", {"dtype": "float16"}, "float32, bfloat16"),
    ],
)
def test_a_wrong_name_or_value_is_answered_with_the_valid_ones(name, options, message):
    with pytest.raises(UserError, match=message) as caught:
        create_model(name, 10, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("classes", [0, -1, 2.5, True, "10", None])
def test_a_wrong_number_of_classes(classes):
    with pytest.raises(UserError, match=f"num_classes must be .*, not {classes}"):
        create_model("linear", classes)


@pytest.mark.parametrize(
    ("name", "options", "smallest"),
    [
        # Sizes after each layer: 16 - 4 = 12, 6, 6 - 4 = 2, 1.
        ("lenet", {}, 16),
        ("cnn", {"downsample": "max_pool"}, 16),
        # Sizes after each layer: (13 - 5) // 2 + 1 = 5, then 1.
        ("cnn", {"downsample": "stride"}, 13),
    ],
)
def test_images_too_small_for_the_network_are_refused(name, options, smallest):
    model = create_model(name, 10, **options)
    shapes_of(model, smallest)
    for side in (smallest - 1, smallest // 2, 1):
        with pytest.raises(UserError, match="too small"):
            shapes_of(model, side)


@pytest.mark.parametrize("name", ["resnet20_v1", "resnet20_v2", "resnet18", "mobilenet_v2"])
def test_networks_with_global_pooling_take_images_of_any_size(name):
    model = create_model(name, 10)
    variables = shapes_of(model, 32)
    for height, width in [(1, 1), (33, 40)]:
        logits = jax.eval_shape(model.apply, variables, jnp.zeros((2, height, width, 3)))
        assert logits.shape == (2, 10)


# --- Initialisation -----------------------------------------------------------------------------


def assert_normal(kernel, std):
    """Asserts the mean and standard deviation to five standard errors, and the tail's length."""
    kernel = np.asarray(kernel, np.float64)
    error = std / math.sqrt(kernel.size)
    assert abs(kernel.mean()) < 5 * error
    assert abs(kernel.std() - std) < 5 * error / math.sqrt(2)
    assert 3 * std < np.abs(kernel).max() < 6 * std


def assert_uniform(values, bound):
    values = np.asarray(values, np.float64)
    assert 0.9 * bound < np.abs(values).max() <= bound
    # The standard deviation of U(-b, b) is b / sqrt(3). Its estimate from n values has the relative
    # standard error 1 / sqrt(5 n) = 0.45 / sqrt(n).
    assert abs(values.std() * math.sqrt(3) / bound - 1) < 5 * 0.45 / math.sqrt(values.size)


def test_lenet_and_softmax_regression_start_as_pytorch_starts_them():
    names = ("params/conv2/kernel", "params/dense1/kernel", "params/dense1/bias")
    convolution, dense, bias = initialised(create_model("lenet", 10), 32, *names)
    assert_uniform(convolution, (5 * 5 * 6) ** -0.5)
    assert_uniform(dense, 400**-0.5)
    assert_uniform(bias, 400**-0.5)
    names = ("params/head/kernel", "params/head/bias")
    kernel, bias = initialised(create_model("linear", 200), 8, *names)
    assert_uniform(kernel, 192**-0.5)
    assert_uniform(bias, 192**-0.5)


@pytest.mark.parametrize(("activation", "gain"), [("relu", 2.0), ("silu", 2.0), ("selu", 1.0)])
def test_mlp_starts_he_normal_or_lecun_normal_for_selu(activation, gain):
    model = create_model("mlp", 100, hidden_sizes=(300,), activation=activation)
    names = [
        f"params/{layer}/{leaf}" for layer in ("dense1", "head") for leaf in ("kernel", "bias")
    ]
    kernel, bias, head, head_bias = initialised(model, 8, *names)
    assert_normal(kernel, math.sqrt(gain / 192))
    assert_normal(head, math.sqrt(1 / 300))
    assert not np.any(bias)
    assert not np.any(head_bias)


def test_resnet_starts_as_torchvision_starts_it():
    conv, head, scale, bias, var, mean = initialised(
        create_model("resnet8_v2", 100),
        8,
        "params/stage3_block1/conv1/kernel",
        "params/head/kernel",
        "params/stage3_block1/bn2/scale",
        "params/stage3_block1/bn2/bias",
        "batch_stats/stage3_block1/bn2/var",
        "batch_stats/stage3_block1/bn2/mean",
    )
    # The fan out is 9 * 64; the fan in is only 9 * 32.
    assert_normal(conv, math.sqrt(2 / (9 * 64)))
    assert_uniform(head, 64**-0.5)
    assert np.all(scale == 1)
    assert np.all(var == 1)
    assert not np.any(bias)
    assert not np.any(mean)


def test_mobilenet_starts_as_torchvision_starts_it():
    depthwise, project, head, bias = initialised(
        create_model("mobilenet_v2", 10, width=0.5),
        1,
        "params/stage7_block1/depthwise_conv/kernel",
        "params/stage7_block1/project_conv/kernel",
        "params/head/kernel",
        "params/head/bias",
    )
    assert_normal(depthwise, math.sqrt(2 / (9 * 480)))
    assert_normal(project, math.sqrt(2 / 160))
    assert_normal(head, 0.01)
    assert not np.any(bias)


# --- bfloat16 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_keeps_parameters_and_logits_in_float32(name):
    model = create_model(name, 10, dtype="bfloat16")
    variables = shapes_of(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    logits = jax.eval_shape(model.apply, variables, jnp.zeros((2, 32, 32, 3)))
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "options"), [("mlp", {"hidden_sizes": (20,)}), ("resnet8_v2", {"width": 0.25})]
)
def test_bfloat16_computes_nearly_what_float32_does(name, options):
    rng = np.random.default_rng(0)
    images = np.float32(rng.normal(size=(8, 8, 8, 3)))
    exact, rounded = (create_model(name, 10, dtype=d, **options) for d in ("float32", "bfloat16"))

    def draw(leaf):
        if leaf.ndim == 1:
            return np.float32(rng.uniform(0.5, 1.5, leaf.shape))
        return np.float32(rng.normal(size=leaf.shape) * (2 / math.prod(leaf.shape[:-1])) ** 0.5)

    variables = jax.tree.map(draw, shapes_of(exact, 8))
    expected, found = jax.jit(lambda *args: (exact.apply(*args), rounded.apply(*args)))(
        variables, images
    )
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert 0 < error < 0.05  # bfloat16 has 8 significant bits: each rounding errs by up to 1/256


# --- Several devices (simulated by vmap with an axis name), dropout -----------------------------


@pytest.mark.parametrize("activation", ["relu", "selu"])
def test_four_devices_compute_what_one_computes(activation):
    """Compares logits, running statistics and gradients, with synchronised batch norm and dropout."""
    images = jax.random.normal(jax.random.key(0), (8, 2, 2, 3))
    labels = jnp.arange(8) % 3
    options = {"hidden_sizes": (16,), "activation": activation, "batch_norm": True, "dropout": 0.5}
    alone = create_model("mlp", 3, **options)
    mapped = create_model("mlp", 3, axis_name="batch", **options)
    variables = jax.jit(alone.init)(jax.random.key(1), images)

    def step(model, images, labels):
        def loss_fn(params):
            logits, updated = model.apply(
                variables | {"params": params},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(2)},
            )
            one_hot = jax.nn.one_hot(labels, 3)
            loss = -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * one_hot, axis=-1))
            return loss, (logits, updated["batch_stats"])

        gradients, (logits, stats) = jax.grad(loss_fn, has_aux=True)(variables["params"])
        if model.axis_name is not None:
            gradients = jax.lax.pmean(gradients, model.axis_name)
        return logits, gradients, stats

    logits, *rest = jax.jit(functools.partial(step, alone))(images, labels)
    split = jax.jit(jax.vmap(functools.partial(step, mapped), axis_name="batch"))
    found_logits, *found_rest = split(images.reshape(4, 2, 2, 2, 3), labels.reshape(4, 2))

    np.testing.assert_allclose(found_logits.reshape(8, 3), logits, rtol=1e-4, atol=1e-5)
    for device in range(4):
        on_device = jax.tree.map(lambda leaf, i=device: leaf[i], found_rest)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), on_device, rest
        )


def test_batch_norm_that_is_not_synchronised_is_each_device_s_own():
    images = np.float32(np.random.default_rng(0).normal(size=(2, 4, 2, 2, 3)))
    options = {"hidden_sizes": (5,), "batch_norm": True}
    alone = create_model("mlp", 3, **options)
    mapped = create_model("mlp", 3, axis_name="batch", sync_batch_norm=False, **options)
    variables = jax.jit(alone.init)(jax.random.key(1), images[0])

    def logits(model, images):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])[0]

    found = jax.jit(jax.vmap(functools.partial(logits, mapped), axis_name="batch"))(images)
    for device in range(2):
        expected = jax.jit(functools.partial(logits, alone))(images[device])
        np.testing.assert_allclose(found[device], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [("mlp", {}), ("cnn", {}), ("mlp", {"activation": "selu"}), ("mobilenet_v2", {})],
)
@pytest.mark.usefixtures("shallow_mobilenet")
def test_dropout_is_for_training_only_and_off_by_default(name, options):
    images = jnp.zeros((2, 32, 32, 3))

    def trace(train, **more):
        model = create_model(name, 10, **options, **more)
        apply = functools.partial(model.apply, train=train, mutable=["batch_stats"])
        jax.eval_shape(apply, shapes_of(model), images)

    trace(train=True)
    trace(train=False, dropout=0.5)
    with pytest.raises(flax.errors.InvalidRngError):  # dropout needs a key and has none
        trace(train=True, dropout=0.5)


# Klambauer et al., 2017, section 3: a = (q + alpha'^2 q (1 - q))^(-1/2), b = -a (1 - q) alpha',
# with q = 1/2 and alpha' = -1.7580993. A dropped value becomes a alpha' + b.
@pytest.mark.parametrize(
    ("activation", "dropped"),
    [("relu", 0.0), ("selu", -1.7580993 / 2 * (0.5 + 1.7580993**2 / 4) ** -0.5)],
)
def test_mlp_drops_to_zero_or_to_the_limit_of_selu(activation, dropped):
    model = create_model("mlp", 64, hidden_sizes=(64,), activation=activation, dropout=0.5)
    images = 1 + jax.random.normal(jax.random.key(0), (32, 2, 2, 3))
    params = jax.jit(model.init)(jax.random.key(1), images)["params"]
    # The head is the identity, so the logits are the hidden layer. Its bias makes it positive.
    params["dense1"]["bias"] = jnp.full(64, 100.0)
    params["head"]["kernel"] = jnp.eye(64)
    apply = jax.jit(functools.partial(model.apply, train=True))
    logits = apply({"params": params}, images, rngs={"dropout": jax.random.key(2)})
    # 2048 draws: the standard deviation of the dropped share is 0.011.
    assert abs(np.mean(np.isclose(logits, dropped, atol=1e-4)) - 0.5) < 0.05


# --- Rematerialisation --------------------------------------------------------------------------


def training_loss(model, variables):
    """A function: parameters -> (a loss in training mode, the new running statistics)."""
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))

    def loss(params):
        logits, updated = model.apply(
            variables | {"params": params},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(2)},
        )
        return jnp.sum(jnp.sin(logits)), updated

    return loss


@pytest.mark.parametrize("name", ["resnet8_v1", "resnet8_v2", "mobilenet_v2"])
@pytest.mark.usefixtures("shallow_mobilenet")
def test_remat_keeps_less_for_the_backward_pass(name):
    options = {"dropout": 0.5} if name == "mobilenet_v2" else {}
    plain, remat = (create_model(name, 10, remat=on, **options) for on in (False, True))
    variables = shapes_of(plain)
    assert shapes_of(remat) == variables

    def activations_kept(model):
        def pull(variables):
            loss = training_loss(model, variables)
            return jax.vjp(loss, variables["params"], has_aux=True)[1]

        leaves = jax.tree.leaves(jax.eval_shape(pull, variables))
        return sum(math.prod(leaf.shape) for leaf in leaves if leaf.shape[:1] == (4,))

    assert activations_kept(remat) < 0.5 * activations_kept(plain)


def test_remat_gives_the_same_gradients_and_statistics():
    plain, remat = (create_model("resnet8_v2", 10, remat=on) for on in (False, True))
    variables = jax.jit(plain.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    results = [
        jax.jit(jax.value_and_grad(training_loss(model, variables), has_aux=True))(
            variables["params"]
        )
        for model in (plain, remat)
    ]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max())
