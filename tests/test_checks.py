"""The one dialect of messages: the parameter, what came, what is allowed."""

import math
import pickle
import re

import numpy as np
import pytest
import torch

from ncbook import _checks, backbones, collapse, datasets, fewshot, theory


def test_what_is_accepted_is_returned():
    assert _checks.check_whole("n", np.int64(3), 1) == 3 and type(_checks.check_whole("n", np.int64(3), 1)) is int
    assert _checks.check_real("x", 2) == 2.0 and type(_checks.check_real("x", np.float32(2))) is float
    assert _checks.check_choice("head", "ncc", ["ncc"]) == "ncc"
    features, labels = torch.zeros(4, 2), torch.zeros(4, dtype=torch.uint8)
    assert _checks.check_features(features, labels) is features and _checks.check_labels(labels) is labels


def test_the_nearest_name_in_any_case():
    assert _checks.nearest("CIFAR-FS", ["cifar10", "cifar_fs"]).startswith("did you mean 'cifar_fs'? ")
    assert _checks.nearest("wrn-28-4", ["WRN_28_4"]).startswith("did you mean 'WRN_28_4'? ")
    assert _checks.nearest(None, ["cosine"]) == "allowed: cosine"


@pytest.mark.parametrize(
    ("call", "nearest"),
    [
        (lambda: fewshot.evaluate(None, None, episods=3), "'episods'; did you mean 'episodes='"),
        (lambda: fewshot.pair_errors(None, None, shots=1), "'shots'; did you mean 'shot='"),
        (lambda: collapse.nc2(None, None, variants="centered"), "'variants'; did you mean 'variant='"),
        (lambda: theory.spread_bound(0.1, 5, ranks=3), "'ranks'; did you mean 'rank'"),
        (lambda: datasets.split(None, nsource=3), "'nsource'; did you mean 'n_source='"),
        (lambda: backbones.build("conv4", in_channel=1), "'in_channel'; did you mean 'in_channels'"),
    ],
)
def test_arguments_that_do_not_exist_name_those_that_do(call, nearest):
    with pytest.raises(TypeError, match=f"got an unexpected keyword argument {re.escape(nearest)}"):
        call()


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (0, ValueError, "n=0; allowed: a whole number of at least 1 and at most 9"),
        (10, ValueError, "n=10; allowed: a whole number of at least 1 and at most 9"),
        (2.0, TypeError, "n=2.0 is of type float; allowed: a whole number"),
        (True, TypeError, "n=True is of type bool"),
        (None, TypeError, "n=None is of type NoneType"),
    ],
)
def test_whole_numbers(value, error, words):
    with pytest.raises(error) as raised:
        _checks.check_whole("n", value, 1, 9)
    assert str(raised.value).startswith(words)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (0, ValueError, "x=0; allowed: a finite number above 0 and below 1"),
        (1.0, ValueError, "x=1.0; allowed: a finite number above 0 and below 1"),
        (math.nan, ValueError, "x=nan; allowed"),
        (math.inf, ValueError, "x=inf; allowed"),
        ("1e-3", TypeError, "x='1e-3' is of type str"),
        (False, TypeError, "x=False is of type bool"),
    ],
)
def test_numbers(value, error, words):
    with pytest.raises(error) as raised:
        _checks.check_real("x", value, 0, 1, above_low=True, below_high=True)
    assert str(raised.value).startswith(words)


def test_a_number_that_yaml_reads_as_text():
    with pytest.raises(TypeError, match=r"\(YAML reads it as text: write 1\.0e-03\)"):
        _checks.check_real("x", "1e-3")


@pytest.mark.parametrize("value", ["nc", "", None, 3])
def test_names(value):
    with pytest.raises(ValueError, match="head=.* is unknown; .*allowed: ridge, ncc"):
        _checks.check_choice("head", value, ["ridge", "ncc"])


@pytest.mark.parametrize(
    ("features", "labels", "error", "words"),
    [
        ([[1.0]], torch.zeros(1, dtype=torch.int64), TypeError, "features is of type list; allowed: a torch.Tensor"),
        (
            torch.zeros(2, 2).long(),
            torch.zeros(2).long(),
            TypeError,
            "features has dtype torch.int64; allowed: a float",
        ),
        (torch.zeros(2, 2, 2), torch.zeros(2).long(), ValueError, "features has shape [2, 2, 2]; allowed: [N, D]"),
        (torch.zeros(2, 0), torch.zeros(2).long(), ValueError, "features has shape [2, 0]; allowed: [N, D]"),
        (torch.zeros(2, 2), torch.zeros(3).long(), ValueError, "labels has shape [3]; allowed: [2]"),
        (torch.zeros(2, 2), torch.zeros(2), TypeError, "labels has dtype torch.float32; allowed: an integer dtype"),
        (torch.zeros(2, 2), torch.zeros(2, 1).long(), ValueError, "labels has shape [2, 1]; allowed: [N]"),
        (torch.zeros(2, 2), [0, 1], TypeError, "labels is of type list; allowed: a torch.Tensor"),
    ],
)
def test_features_and_labels(features, labels, error, words):
    with pytest.raises(error) as raised:
        _checks.check_features(features, labels)
    assert str(raised.value).startswith(words)


def test_arrays_of_numpy_are_refused_with_the_way_to_a_tensor():
    features, labels = np.zeros((4, 2)), np.arange(4) // 2
    for measure in (collapse.cdnv, lambda x, y: fewshot.evaluate(x, y, shot=1)):
        with pytest.raises(
            TypeError, match=r"features is of type ndarray; .*\(torch.from_numpy\(features\) makes one\)"
        ):
            measure(features, labels)
        with pytest.raises(TypeError, match=r"labels is of type ndarray; .*\(torch.from_numpy\(labels\) makes one\)"):
            measure(torch.from_numpy(features), labels)
    with pytest.raises(TypeError, match=r"weight is of type ndarray; .*\(torch.from_numpy\(weight\) makes one\)"):
        collapse.nc3(torch.from_numpy(features), torch.from_numpy(labels), features)


def test_what_a_reader_gave_wrongly_is_one_sentence_in_a_notebook():
    for error in (FileNotFoundError("no such folder"), ValueError("too few classes")):
        with pytest.raises(type(error)) as raised, _checks.one_sentence():
            raise error
        assert raised.value._render_traceback_() == [f"{type(error).__name__}: {error}"]
    with pytest.raises(ZeroDivisionError) as raised, _checks.one_sentence():
        1 / 0  # noqa: B018
    assert not hasattr(raised.value, "_render_traceback_")


def test_rows_that_are_not_finite_are_named():
    features = torch.zeros(5, 2)
    features[3, 1] = torch.nan
    assert _checks.describe_not_finite(features) == (
        "features holds NaN or infinity in 1 of 5 rows, first in row 3; allowed: finite numbers"
    )
    assert "up to 1e+30; allowed: numbers small enough" in _checks.describe_not_finite(torch.full((2, 2), 1e30))


def test_numbers_of_torch_and_numbers_that_are_too_large():
    assert _checks.check_whole("n", torch.tensor(3), 1) == 3 and _checks.check_real("x", torch.tensor(2.5)) == 2.5
    for wrong in (torch.tensor(True), torch.tensor([1, 2]), np.array([1]), np.bool_(True), torch.tensor(1.5)):
        with pytest.raises(TypeError, match=r"n=.* is of type .*; allowed: a whole number of at least 1"):
            _checks.check_whole("n", wrong, 1)
    for wrong in (torch.tensor(True), torch.tensor([1.0, 2.0]), np.array([1.0])):
        with pytest.raises(TypeError, match=r"x=.* is of type .*; allowed: a finite number"):
            _checks.check_real("x", wrong)
    with pytest.raises(ValueError, match=f"n={2**62}; allowed: a whole number of at least 1 and at most {2**53}"):
        _checks.check_whole("n", 2**62, 1)
    with pytest.raises(ValueError, match="x=10.*; allowed: a finite number"):
        _checks.check_real("x", 10**400)


def test_an_error_in_one_sentence_crosses_processes():
    with pytest.raises(ValueError, match="omniglot") as error, _checks.one_sentence():
        raise ValueError("did you mean 'omniglot'?")
    again = pickle.loads(pickle.dumps(error.value))
    assert str(again) == str(error.value) and again._render_traceback_() == ["ValueError: did you mean 'omniglot'?"]


def test_warnings_name_the_line_outside_of_the_package():
    features, labels = torch.tensor([0.0, 3, 1, 4]).view(4, 1), torch.tensor([0, 0, 1, 1])
    for metric in (collapse.cdnv, collapse.cdnv_matrix):
        with pytest.warns(RuntimeWarning, match="cannot be told apart") as caught:
            metric(features, labels, debiased=True)
        assert caught[0].filename == __file__
