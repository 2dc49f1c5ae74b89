"""Recording the reference: eager as the user runs it, in float64, and how noisy eager is by itself."""

from __future__ import annotations

import numpy as np
import torch

from deploykit.capture import edges
from deploykit.capture.blame import line_of
from deploykit.capture.calling import arrays, call, first_line
from deploykit.capture.copies import Copies
from deploykit.capture.float64 import Exact, floats
from deploykit.capture.noise import JUDGED, NoiseFloor, rmse
from deploykit.capture.watch import Watch
from deploykit.errors import WorkError
from deploykit.inputs import CaseInputs
from deploykit.model import LoadedModel
from deploykit.reference import Case, IndexOutput, Largest, Noise
from deploykit.signature import Feeds

STEPPED = {"example", "real", "in range", "constant", "straddle", "ties"}
"""Input classes that are always asked a hair beside: they come first, and steps show in them if anywhere."""

HALF_MAX = 65_504.0
"""The largest float16."""

_Outputs = list[tuple[str, torch.Tensor]]


class Recorder:
    """Answers cases with the untouched module.

    Attributes:
        float64: how the float64 answer is had (`dispatch`, `double`), or None when the module cannot run so (weak
            reference).
        index_outputs: integer outputs that index scores computed inside, by name.
        random: where forward draws random numbers (without effect on the example's answer), or None.
        skipped: why eager refused an optional case, by its id.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._copies = Copies(model.module)
        self._exact = Exact(self._copies, model.example)
        self.float64 = self._exact.way
        watch = Watch()
        outputs = self._watched(model.example, watch)
        self.random = watch.random
        found = {name: watch.choices.output(tensor) for name, tensor in outputs}
        self.index_outputs: dict[str, IndexOutput] = {name: index for name, index in found.items() if index}
        self.skipped: dict[str, str] = {}
        self._noise = NoiseFloor(self._copies, self._exact, model.example)
        self._places: dict[str, float] = {}
        self._least: dict[str, float] = {}
        self._steps = False

    @property
    def largest(self) -> Largest | None:
        """The largest magnitude inside the module over the judged cases answered so far; None before the first."""
        if not self._places:
            return None
        where, value = max(self._places.items(), key=lambda place: place[1])
        return Largest(value, where, sum(value > HALF_MAX for value in self._places.values()))

    @property
    def smallest(self) -> Largest | None:
        """The place whose largest magnitude is the smallest, zeros left out: what float16 would lose whole."""
        if not self._least:
            return None
        where, value = min(self._least.items(), key=lambda place: place[1])
        return Largest(value, where)

    def answer(self, inputs: CaseInputs) -> Case | None:
        """The finished case; None where eager refuses an optional one.

        Raises:
            WorkError: NAN_REFERENCE, eager itself answers a finite in-distribution input with NaN; REFERENCE_ERROR, it
                refuses an input that the model was promised to take.
        """
        try:
            expected = arrays(call(self._copies.original, inputs.inputs))
        except Exception as error:
            if inputs.optional:
                self.skipped[inputs.id] = first_line(error)
                return None
            if inputs.gate == "outside":
                return _case(inputs, {})
            hint = "give inputs that the model takes with --samples, or narrow what --input promises"
            message = f"eager refuses it: {first_line(error)}{line_of(error)}"
            raise WorkError(f"case {inputs.id}", message, hint, "REFERENCE_ERROR") from error
        if inputs.input_class in JUDGED:
            _check_finite(expected, inputs.id)
        return self._measured(inputs, expected)

    def _measured(self, inputs: CaseInputs, expected: Feeds) -> Case:
        """The case with everything that is known beyond eager's own answer."""
        judged = inputs.input_class in JUDGED
        valued = inputs.gate != "pattern"
        watch = Watch(magnitudes=judged)
        outputs: _Outputs = []
        if self.index_outputs or judged or (valued and self.float64 is not None):
            outputs = self._watched(inputs.inputs, watch if judged or self.index_outputs else None)
        for place, value in watch.places.items():
            self._places[place] = max(value, self._places.get(place, 0.0))
        for place, value in watch.least.items():
            self._least[place] = max(value, self._least.get(place, 0.0))
        scores = self._scores(watch, outputs)
        expected64 = floats(outputs) if valued and self.float64 is not None else {}
        noise = self._noise.of(inputs, expected, expected64) if expected64 else {}
        near = self._beside(inputs, expected) if valued else {}
        return _case(inputs, expected, expected64, noise, scores, self._score_noise(inputs.inputs, scores), near)

    def _beside(self, inputs: CaseInputs, expected: Feeds) -> Feeds:
        """Answers a hair beside; not asked for where all that came before showed a module without steps."""
        if inputs.input_class not in STEPPED and not self._steps:
            return {}
        near = edges.beside(self._copies.original, inputs.inputs, expected)
        self._steps = self._steps or bool(near)
        return near

    def _watched(self, feeds: Feeds, watch: Watch | None) -> _Outputs:
        """Outputs in float64, those of eager where the reference is weak; empty where float64 refuses these inputs."""
        run = self._eager if self.float64 is None else self._exact.call
        for watching in (watch, None) if watch else (None,):  # control flow operators take no mode that watches
            try:
                return run(feeds, watching)
            except Exception:  # noqa: BLE001, S112 - what a module answers at one size it may refuse at another
                continue
        return []

    def _eager(self, feeds: Feeds, watch: Watch | None) -> _Outputs:
        module = self._copies.original
        return call(module, feeds, within=(lambda tensors: watch.over(module, tensors)) if watch else None)

    def _scores(self, watch: Watch, outputs: _Outputs) -> Feeds:
        found = {
            name: watch.choices.scores(tensor, self.index_outputs[name])
            for name, tensor in outputs
            if name in self.index_outputs
        }
        return {name: array for name, array in found.items() if array is not None}

    def _score_noise(self, feeds: Feeds, scores: Feeds) -> dict[str, float]:
        """RMSE of eager's own scores; empty where those are the recorded ones."""
        if self.float64 is None or not scores:
            return {}
        watch = Watch()
        own = self._scores(watch, self._eager(feeds, watch))
        values = {name: rmse(own[name], exact) for name, exact in scores.items() if name in own}
        return {name: value for name, value in values.items() if value is not None}


def _case(
    inputs: CaseInputs,
    expected: Feeds,
    expected64: Feeds | None = None,
    noise: dict[str, Noise] | None = None,
    scores: Feeds | None = None,
    score_noise: dict[str, float] | None = None,
    near: Feeds | None = None,
) -> Case:
    return Case(
        inputs.id,
        inputs.input_class,
        inputs.gate,
        inputs.rows,
        inputs.seed,
        inputs.inputs,
        expected,
        expected64 or {},
        noise or {},
        inputs.labels,
        inputs.layout,
        inputs.relation,
        scores or {},
        score_noise or {},
        near or {},
        inputs.raw,
    )


def _check_finite(expected: Feeds, case: str) -> None:
    for name, array in expected.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            hint = "repair the weights: nothing can be proven about this model"
            raise WorkError(
                f"output {name}", f"eager answers NaN on the finite inputs of {case}", hint, "NAN_REFERENCE"
            )
