"""Preprocessing end to end: raw images in, wrong steps caught, whether they are in the module or only written down."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import deploykit
from deploykit.errors import DeploykitError
from deploykit.preprocessing import parse
from deploykit.preprocessing_images import pictures
from deploykit.preprocessing_torch import fused

STEPS = "imagenet,resize=36,crop=32"


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 4),
    ).eval()


def answer(raw):
    """What the model says, by torchvision's own transforms."""
    from torchvision.transforms import v2

    steps = v2.Compose(
        [v2.Resize(36, antialias=True), v2.CenterCrop(32), v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    )
    with torch.no_grad():
        return network()(steps(torch.from_numpy(raw).movedim(3, 1).float() / 255)).numpy()


def photos(height, width, rows=2):
    return pictures((rows, height, width, 3), "nhwc", np.random.default_rng(height))


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Raw images of 50 by 41 pixels, and labels."""
    path = tmp_path_factory.mktemp("samples") / "samples.npz"
    raw = photos(50, 41, 640)
    np.savez(path, input=raw, labels=answer(raw).argmax(1))
    return path


@pytest.fixture(scope="module")
def fused_bundle(tmp_path_factory, samples):
    path = tmp_path_factory.mktemp("fused") / "bundle"
    variants = ["torchscript", "onnx", "onnx-fp16", "onnx-int8-dynamic", "onnx-int8-static"]
    example = torch.randn(2, 3, 32, 32)
    return deploykit.export(network(), example, path, preprocess=STEPS, variants=variants, samples=samples)


@pytest.fixture(scope="module")
def recorded_bundle(tmp_path_factory, samples):
    path, example = tmp_path_factory.mktemp("recorded") / "bundle", torch.randn(2, 3, 32, 32)
    return deploykit.export(
        network(), example, path, preprocess=f"recorded:{STEPS}", variants=["onnx"], samples=samples
    )


@pytest.fixture(scope="module")
def fixed_bundle(tmp_path_factory):
    """Images of one size: a wrong artifact is then quickly made by tracing."""
    return deploykit.export(
        network(),
        torch.randn(2, 3, 32, 32),
        tmp_path_factory.mktemp("fixed") / "bundle",
        preprocess=STEPS,
        inputs=["input:uint8[N,50,62,3]"],
        variants=["torchscript"],
    )


def test_the_module_takes_raw_images_and_all_of_it_is_judged(fused_bundle):
    manifest = fused_bundle.manifest
    (image,) = manifest.signature.inputs
    assert str(image) == "input:uint8[N,H,W,3]"
    assert manifest.preprocessing == replace(parse(STEPS), input="input")
    assert manifest.source.spec.preprocess == str(manifest.preprocessing)
    report = deploykit.verify(fused_bundle.path)
    failed = {one.name: one.reason for one in report.variants if one.verdict != "pass" and "int8" not in one.name}
    assert failed == {}
    # four random classes lie close together: eight bits may cost decisions, and nothing else
    wrong = {check.code for one in report.variants for check in one.checks if check.verdict == "fail"}
    assert wrong <= {"METRIC_INFERIOR", "SAMPLE_SIZE"}
    ids = {check.id for check in report.variants[1].checks}
    assert {"real-0", "image-black", "image-255x257", "image-33x301", "H-32"} <= ids


def test_the_file_says_what_torchvision_and_the_model_say(fused_bundle):
    import onnxruntime

    session = onnxruntime.InferenceSession(fused_bundle.file_of("onnx"))
    for height, width in ((50, 41), (33, 301), (480, 640), (36, 36)):
        raw = photos(height, width)
        (actual,) = session.run(None, {"input": raw})
        assert np.abs(actual - answer(raw)).max() < 1e-4


def test_names_of_weights_stay_and_steps_stay_in_float(fused_bundle):
    import onnx
    from safetensors.numpy import load_file

    assert set(load_file(fused_bundle.path / "source/weights.safetensors")) == set(network().state_dict())
    static = onnx.load(fused_bundle.file_of("onnx-int8-static"))
    own = [node for node in static.graph.node if node.name.startswith("preprocess/")]
    assert "MatMul" in {node.op_type for node in own}
    made = {name for node in static.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    assert [node.name for node in own if made & set(node.input)] == []


def test_calibration_and_judgement_take_the_users_own_raw_images(fused_bundle):
    assert fused_bundle.manifest.variant("onnx-int8-static").facts["calibration_rows"] == 64
    case = next(one for one in fused_bundle.manifest.reference.cases if one.input_class == "real")
    stored = fused_bundle.case(case)
    assert stored.inputs["input"].dtype == np.uint8
    assert np.abs(stored.expected["output"] - answer(stored.inputs["input"])).max() < 1e-4
    assert stored.labels is not None


class Wrong(nn.Module):
    """The model behind steps that are not those of the reference."""

    def __init__(self, change):
        super().__init__()
        self.net, self.change = network(), change

    def forward(self, raw):
        return self.net(self.change(raw))


def normalized(x):
    steps = parse("imagenet")
    mean, std = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (steps.mean, steps.std))
    return (x - mean) / std


def with_steps(text):
    return lambda raw: fused(parse(text), raw, torch.float32)


def not_antialiased(raw):
    x = functional.interpolate(raw.permute(0, 3, 1, 2).float(), size=(36, 44), mode="bilinear")
    return normalized(x[:, :, 2:34, 6:38] / 255)


MISTAKES = {
    "std swapped": with_steps(f"{STEPS},std=0.225/0.224/0.229"),
    "mean swapped": with_steps(f"{STEPS},mean=0.406/0.456/0.485"),
    "blue first": with_steps(f"{STEPS},order=bgr"),
    "not antialiased": not_antialiased,
    "normalized twice": lambda raw: normalized(with_steps(STEPS)(raw)),
    "bicubic": with_steps(f"{STEPS},interpolation=bicubic"),
    "crop left out": with_steps("imagenet,size=32"),
}


def traced(change, path):
    module = Wrong(change).eval()
    with torch.no_grad():
        torch.jit.freeze(torch.jit.trace(module, torch.from_numpy(photos(50, 62)))).save(path)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_steps_in_a_file_are_caught_from_raw_images(fixed_bundle, tmp_path, mistake):
    path = traced(MISTAKES[mistake], tmp_path / "wrong.pt")
    report = deploykit.verify(fixed_bundle.path, artifact=path, trust_code=True)
    assert report.exit_code == 1
    assert report.variants[0].code == "VALUE_MISMATCH"


@pytest.mark.filterwarnings("ignore")
def test_right_steps_in_a_file_made_elsewhere_pass(fixed_bundle, tmp_path):
    path = traced(with_steps(STEPS), tmp_path / "right.pt")
    assert deploykit.verify(fixed_bundle.path, artifact=path, trust_code=True).verdict == "pass"


def test_recorded_steps_are_proven_from_raw_images(recorded_bundle):
    manifest = recorded_bundle.manifest
    assert str(manifest.signature.inputs[0]) == "input:float32[N,3,32,32]"
    assert manifest.preprocessing.mode == "recorded"
    (report,) = deploykit.verify(recorded_bundle.path).variants
    assert report.verdict == "pass"
    proven = [check for check in report.checks if check.id.startswith("preprocess-")]
    assert len(proven) >= 6
    assert all(check.value < 0.01 for check in proven)
    raw = photos(70, 90)
    made = torch.from_numpy(deploykit.preprocess(raw, manifest.preprocessing))
    with torch.no_grad():
        assert np.abs(network()(made).numpy() - answer(raw)).max() < 1e-4


CHANGES = {
    "std swapped": {"std": [0.225, 0.224, 0.229]},
    "mean and std exchanged": {"mean": [0.229, 0.224, 0.225], "std": [0.485, 0.456, 0.406]},
    "blue first": {"order": "bgr"},
    "cubic": {"interpolation": "bicubic"},
    "another resize": {"resize": 40},
    "another crop": {"crop": [30, 30]},
    "not scaled": {"scale": 1.0},
    "another input": {"input": "image"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_wrong_steps_in_the_record_are_caught(recorded_bundle, tmp_path, change):
    path = tmp_path / "bundle"
    shutil.copytree(recorded_bundle.path, path)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["preprocessing"] |= CHANGES[change]
    (path / "manifest.json").write_text(json.dumps(manifest))
    report = deploykit.verify(path)
    assert report.exit_code == 1
    assert report.variants[0].code == "PREPROCESS_MISMATCH"


@pytest.mark.parametrize(
    ("steps", "inputs", "told"),
    [
        ("imagenet,size=33", (), "33x33"),
        ("resize=32", (), "any aspect"),
        ("size=32,mean=0.5/0.5", (), "as mean"),
        ("torchvision", (), "no torchvision model"),
        ("size=32,input=photo", (), "image inputs"),
    ],
)
def test_steps_that_do_not_lead_to_the_model_are_refused(tmp_path, steps, inputs, told):
    with pytest.raises(DeploykitError) as caught:
        deploykit.export(network(), torch.zeros(2, 3, 32, 32), tmp_path / "bundle", preprocess=steps, inputs=inputs)
    assert caught.value.code == "BAD_PREPROCESS"
    assert told in caught.value.message
    assert not (tmp_path / "bundle").exists()
