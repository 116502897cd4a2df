"""`Experiment` and what takes parameters: valid and stable, or refused in one sentence, before any work."""

import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st
from inputs import anything, is_plain, right_or_refused

import ncbook
from ncbook import catalog
from ncbook.experiment import Experiment, ParameterError, check_parameters

NAMES = [field.name for field in dataclasses.fields(Experiment)]
CHOICES = {
    "dataset": list(catalog.DATASETS),
    "backbone": list(catalog.BACKBONES),
    "objective": list(catalog.OBJECTIVES),
    "optimizer": list(catalog.OPTIMIZERS),
    "schedule": list(catalog.SCHEDULES),
    "augmentation": list(catalog.AUGMENTATIONS),
    "precision": list(catalog.PRECISIONS),
}
likely = st.one_of(
    anything, st.integers(0, 2000), st.floats(0, 1), *(st.sampled_from(choices) for choices in CHOICES.values())
)
parameters = st.dictionaries(st.sampled_from([*NAMES, "n_sorce", "", "lr"]), likely, max_size=4)


@given(parameters)
def test_an_experiment_is_valid_or_refused(given_parameters):
    with right_or_refused(ParameterError) as refusal:
        experiment = Experiment(**given_parameters)
    if refusal:
        return
    stored = json.loads(json.dumps(experiment.to_dict()))
    again = Experiment(**stored)
    assert again == experiment and again.key == experiment.key and hash(again) == hash(experiment)
    assert len(experiment.key) == 16 and experiment.replace() == experiment
    assert all(stored[name] is None or stored[name] == stored[name] for name in NAMES)  # no NaN


@given(st.sampled_from([*CHOICES, "n_source", "seed", "epochs"]), likely)
def test_replacing_a_parameter_is_the_same_as_giving_it(name, value):
    with right_or_refused(ParameterError) as refused_at_once:
        at_once = Experiment(**{name: value})
    with right_or_refused(ParameterError) as refusal:
        later = Experiment().replace(**{name: value})
    assert bool(refused_at_once) == bool(refusal)
    assert refusal or at_once == later


@given(st.lists(st.one_of(st.text(max_size=60), st.sampled_from(["n_source = 64", "# Parameters\nn_sorce = 8"]))))
def test_cells_of_any_text(cells):
    with right_or_refused(ParameterError):
        check_parameters(cells)


@given(st.text(max_size=12), anything)
def test_names_of_data_sets_and_networks(name, value):
    for call in (
        lambda: ncbook.datasets.load(name),
        lambda: ncbook.datasets.load(value),
        lambda: ncbook.datasets.load("strokes", n_classes=value),
        lambda: ncbook.backbones.build(name, 1, 28),
        lambda: ncbook.backbones.build("conv4", value, 28),
        lambda: ncbook.backbones.build("conv4", 1, value),
        lambda: ncbook.backbones.layers(name),
    ):
        if isinstance(value, int) and value > 100:
            continue
        try:
            with right_or_refused():
                call()
        except OSError as error:  # a data set that is not at hand
            assert is_plain(str(error))
