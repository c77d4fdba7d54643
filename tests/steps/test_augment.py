"""Augmentation equals what NumPy cuts, mirrors and masks by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_jax.steps import augment
from configs import default

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)
COUNT = 2000


def some_keys(count=COUNT, seed=0):
    return augment.example_keys(jax.random.key(seed), jnp.arange(count))


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def counts_of_matches(results, choices):
    """Counts how often each choice occurs among the results. Every result must be a choice."""
    choices = np.stack(choices)
    matches = np.stack([(choices == result).all(axis=(1, 2, 3)) for result in results])
    np.testing.assert_array_equal(matches.sum(axis=1), 1)
    return matches.sum(axis=0)


def test_a_crop_is_a_part_of_the_padded_image_and_every_offset_is_as_likely():
    image = random_images(6, 5, 3)
    padded = np.zeros((10, 9, 3), np.uint8)
    padded[2:8, 2:7] = image
    crops = [padded[y : y + 6, x : x + 5] for y, x in itertools.product(range(5), range(5))]

    results = augment.random_crop(some_keys(), np.stack([image] * COUNT), 2)

    counts = counts_of_matches(np.asarray(results), crops)
    # 80 of each are expected; the standard deviation is 9.
    assert counts.min() > 45
    assert counts.max() < 115


def test_reflected_padding_is_that_of_numpy():
    image = random_images(6, 5, 3)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    crops = [padded[y : y + 6, x : x + 5] for y, x in itertools.product(range(5), range(5))]
    results = augment.random_crop(some_keys(), np.stack([image] * COUNT), 2, "reflect")
    counts = counts_of_matches(np.asarray(results), crops)
    assert counts.min() > 45
    assert counts.max() < 115


def test_an_alternating_flip_shows_each_side_in_every_second_epoch_a_fair_coin_says_which_first():
    key, examples = jax.random.key(3), jnp.arange(COUNT)
    seen = np.stack([augment.alternating(key, examples, epoch) for epoch in range(4)])
    np.testing.assert_array_equal(seen[0], ~seen[1])
    np.testing.assert_array_equal(seen[:2], seen[2:])
    assert abs(seen[0].sum() - COUNT / 2) < 100
    # The key belongs to the example: the result is the same in any batch.
    np.testing.assert_array_equal(augment.alternating(key, examples[::-7], 1), seen[1][::-7])


def test_jitter_shifts_and_stretches_all_of_an_image_by_two_uniform_numbers():
    images = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    results = augment.jitter(some_keys(), np.stack([images] * COUNT), 0.3, 0.2)
    results = np.asarray(results, np.float64).reshape(COUNT, -1)
    # result = factor * image + factor * shift: a straight line for each image.
    lines = np.polyfit(images.ravel(), results.T, 1).T
    np.testing.assert_allclose(lines[:, :1] * images.ravel() + lines[:, 1:], results, atol=1e-5)
    factor, shift = lines[:, 0], lines[:, 1] / lines[:, 0]
    for values, low, high in ((factor, 0.8, 1.2), (shift, -0.3, 0.3)):
        assert low - 1e-5 <= values.min() < low + 0.01
        assert high - 0.01 < values.max() <= high + 1e-5
        assert abs(values.mean() - (low + high) / 2) < 0.02
    assert abs(np.corrcoef(factor, shift)[0, 1]) < 0.1


def test_a_flip_mirrors_exactly_and_half_of_the_time():
    image = random_images(4, 5, 3)
    results = augment.mirror(augment.coins(some_keys()), np.stack([image] * COUNT))
    _, mirrored = counts_of_matches(np.asarray(results), [image, image[:, ::-1]])
    # The standard deviation is 22.
    assert abs(mirrored - COUNT / 2) < 100


def test_the_draws_of_crop_and_flip_do_not_depend_on_each_other():
    image = random_images(4, 4, 3)
    config = default.get_config().augment
    config.crop_padding = 1
    results = augment.augment(
        jax.random.key(0), jnp.arange(COUNT), np.stack([image] * COUNT), config, MEAN, STD
    )
    results = np.rint((np.asarray(results) * STD + MEAN) * 255)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    crops = [padded[y : y + 4, x : x + 4] for y, x in itertools.product(range(3), range(3))]
    counts = counts_of_matches(results, [*crops, *(crop[:, ::-1] for crop in crops)])
    # 111 of each of the 18 pairs are expected; the standard deviation is 10.
    assert counts.min() > 60
    assert counts.max() < 165


def test_normalisation_is_that_of_float64_to_rounding():
    pixels = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
    expected = (pixels.astype(np.float64) / 255 - MEAN) / STD
    got = augment.normalize(jnp.asarray(pixels), MEAN, STD)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)
    assert augment.normalize(jnp.asarray(pixels), MEAN, STD, jnp.bfloat16).dtype == jnp.bfloat16


@pytest.mark.parametrize(("size", "smallest", "largest"), [(4, 2 * 2, 4 * 4), (3, 2 * 2, 3 * 3)])
def test_cutout_hides_a_square_that_the_border_cuts_off(size, smallest, largest):
    height, width = 7, 8
    image = np.random.default_rng(0).uniform(1, 2, (height, width, 3)).astype(np.float32)

    def around(centre, length):
        return [i for i in range(centre - size // 2, centre - size // 2 + size) if 0 <= i < length]

    choices = []
    for y, x in itertools.product(range(height), range(width)):
        hidden = image.copy()
        hidden[np.ix_(around(y, height), around(x, width))] = 0
        choices.append(hidden)

    results = np.asarray(augment.cutout(some_keys(), np.stack([image] * COUNT), size))

    counts = counts_of_matches(results, choices)
    # Centres are uniform: 36 of each are expected; the standard deviation is 6.
    assert counts.min() > 6
    assert counts.max() < 75
    zeros = (results == 0).all(axis=-1).sum(axis=(1, 2))
    assert (zeros.min(), zeros.max()) == (smallest, largest)


def test_the_border_is_black_and_the_hidden_square_has_the_mean_colour():
    config = default.get_config().augment
    config.crop_padding, config.cutout = 3, 2
    white = np.full((64, 8, 8, 3), 255, np.uint8)
    augmented = jax.jit(lambda *args: augment.augment(*args, config, MEAN, STD))
    results = np.asarray(augmented(jax.random.key(0), jnp.arange(64), white))
    colours = {tuple(colour) for colour in np.round(results.reshape(-1, 3), 3).tolist()}
    # (0 - mean) / std, 0 and (1 - mean) / std.
    assert colours == {(-2.0, -2.0, -3.0), (0.0, 0.0, 0.0), (2.0, 3.0, 7.0)}


def test_an_example_depends_on_its_place_and_the_step_alone():
    config = default.get_config().augment
    config.cutout = 3
    images = random_images(16, 8, 8, 3)
    images[1] = images[0]

    @jax.jit
    def augmented(step, places, images):
        key = jax.random.fold_in(jax.random.key(5), step)
        return augment.augment(key, places, images, config, MEAN, STD)

    def at(places, step=0):
        return np.asarray(augmented(step, places, images[places]))

    whole = at(np.arange(16))
    halves = [at(np.arange(8)), at(np.arange(8, 16))]
    np.testing.assert_array_equal(np.concatenate(halves), whole)
    np.testing.assert_array_equal(at(np.arange(16)[::-1]), whole[::-1])
    assert not np.array_equal(at(np.arange(16), step=1), whole)
    assert not np.array_equal(whole[0], whole[1])


def test_mixup_pairs_every_example_with_one_and_shares_follow_the_beta_distribution():
    alpha = 0.2
    keys = jax.random.split(jax.random.key(0), 4000)
    partners, shares = jax.vmap(lambda key: augment.mixup_pairs(key, 6, alpha))(keys)
    np.testing.assert_array_equal(np.sort(partners, axis=1), np.arange(6)[None].repeat(4000, 0))
    # Each of the six should be the partner of the first 667 times; the standard deviation is 24.
    assert np.abs(np.bincount(partners[:, 0]) - 4000 / 6).max() < 120
    shares = np.asarray(shares)
    assert shares.min() >= 0
    assert shares.max() <= 1
    assert abs(shares.mean() - 0.5) < 0.03
    # The variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    assert abs(shares.var() - 1 / (4 * (2 * alpha + 1))) < 0.01


def test_enlarging_is_pytorchs_bilinear_and_leaves_images_of_the_size_alone():
    images = random_images(2, 3, 3, 3)
    assert augment.enlarge(images, 3) is images
    assert augment.enlarge(images, None) is images
    found = np.asarray(augment.enlarge(jnp.asarray(images), 7))
    # Pixel i of 7 is at (i + 0.5) * 3 / 7 - 0.5 of 3; beyond the outer centres the edge repeats.
    for y, x in itertools.product(range(7), repeat=2):
        row, column = (min(max((i + 0.5) * 3 / 7 - 0.5, 0), 2) for i in (y, x))
        top, left = min(int(row), 1), min(int(column), 1)
        down, right = row - top, column - left
        upper = (1 - right) * images[:, top, left] + right * images[:, top, left + 1]
        lower = (1 - right) * images[:, top + 1, left] + right * images[:, top + 1, left + 1]
        expected = (1 - down) * upper + down * lower
        np.testing.assert_allclose(found[:, y, x], expected, rtol=1e-5, atol=1e-3)


def test_small_images_are_cropped_and_mirrored_before_they_are_enlarged():
    config = default.get_config().augment
    config.crop_padding = 2
    images = random_images(8, 6, 6, 3)
    arguments = jax.random.key(0), jnp.arange(8), jnp.asarray(images), config
    # A mean of 0 and a deviation of 1 / 255 leave pixels unchanged.
    small = augment.augment(*arguments, (0.0,) * 3, (1 / 255,) * 3)
    large = augment.augment(*arguments, MEAN, STD, 13)
    expected = augment.network_input(jnp.round(small).astype(jnp.uint8), 13, MEAN, STD)
    assert large.shape == (8, 13, 13, 3)
    np.testing.assert_allclose(large, expected, atol=1e-5)
