from __future__ import annotations

import json
import pickle

import pytest

from dynsvc import errors
from dynsvc.errors import DynsvcError, from_document, shown, to_document

# Class, constructor arguments, whether another try may help, and the whole text.
ROWS: list[tuple[type[DynsvcError], tuple[object, ...], bool, str]] = [
    (DynsvcError, ("something",), False, "something"),
    (errors.Transient, ("something",), True, "something"),
    (
        errors.PeerUnavailable,
        ("image server http://iip:8080", "no answer in 10 s"),
        True,
        "image server http://iip:8080: no answer in 10 s",
    ),
    (
        errors.DeliveryUnknown,
        ("annotation loader", "all bytes were sent, and the answer never came"),
        True,
        "annotation loader: all bytes were sent, and the answer never came",
    ),
    (
        errors.EngineUnavailable,
        ("Docker at unix:///var/run/docker.sock", "connection refused"),
        True,
        "Docker at unix:///var/run/docker.sock: connection refused",
    ),
    (
        errors.StorageUnavailable,
        ("/data/artifacts", "No space left on device"),
        True,
        "/data/artifacts: No space left on device",
    ),
    (
        errors.WorkerLost,
        ("14", "run_algorithm", 30.0),
        True,
        "order 14: its worker gave no sign of life for 30 s; when last heard of, it ran run_algorithm",
    ),
    (
        errors.SettingsInvalid,
        ("DYNSVC_RUNTIME", "'podman'", "docker or process"),
        False,
        "DYNSVC_RUNTIME is 'podman', expected docker or process",
    ),
    (
        errors.InvalidOrder,
        ("14", "data.order.roi.w", "141px", "a whole number of level-0 pixels, 1 to 2147483647"),
        False,
        "order 14: data.order.roi.w is '141px', expected a whole number of level-0 pixels, 1 to 2147483647",
    ),
    (
        errors.InvalidOrder,
        ("14", "data.order.image.case_id", None, "an id"),
        False,
        "order 14: data.order.image.case_id is missing, expected an id",
    ),
    (
        errors.UnknownAlgorithm,
        ("14", "nuclie", "nuclei"),
        False,
        "order 14: no algorithm 'nuclie'; did you mean 'nuclei'? (dynsvc algorithms lists all)",
    ),
    (
        errors.UnknownAlgorithm,
        ("14", "xyz", None),
        False,
        "order 14: no algorithm 'xyz' (dynsvc algorithms lists all)",
    ),
    (
        errors.DescriptorInvalid,
        ("/a/seg/algorithm.toml:5", "device.gpus", -1, "a number from 0"),
        False,
        "/a/seg/algorithm.toml:5: device.gpus is -1, expected a number from 0",
    ),
    (
        errors.SlideNotFound,
        ("location service http://data:9099", "TCGA-1"),
        False,
        "location service http://data:9099 knows no slide 'TCGA-1'",
    ),
    (
        errors.SlideAmbiguous,
        ("location service http://data:9099", "TCGA-1", 3),
        False,
        "location service http://data:9099 knows 3 different slides 'TCGA-1', expected exactly one",
    ),
    (
        errors.SlideUnreadable,
        ("a.svs", "not a slide format of OpenSlide"),
        False,
        "slide 'a.svs' cannot be read: not a slide format of OpenSlide",
    ),
    (
        errors.SlideSizeUnknown,
        ("full",),
        False,
        (
            "region full needs the slide's size, which neither the location service nor the image source "
            "knows; order the region in pixels"
        ),
    ),
    (
        errors.RegionOutsideSlide,
        ("48100,0,207,141", 48002, 35558),
        False,
        "region 48100,0,207,141 lies outside the slide of 48002 x 35558 px",
    ),
    (
        errors.RegionOutsideSlide,
        ("-300,0,207,141", None, None),
        False,
        "region -300,0,207,141 lies outside the slide",
    ),
    (
        errors.RegionTooLarge,
        (48002, 35558, 150_000_000),
        False,
        "region of 48002 x 35558 px has 1706855116 px, expected at most 150000000 (DYNSVC_MAX_REGION_PX)",
    ),
    (
        errors.PeerRefused,
        ("annotation loader", 'HTTP 400 "missing case_id"'),
        False,
        'annotation loader: HTTP 400 "missing case_id"',
    ),
    (
        errors.PictureWrong,
        ("image server", "a JPEG of 5000 x 2500 px", "8000 x 4000 px"),
        False,
        "image server answered a JPEG of 5000 x 2500 px, expected 8000 x 4000 px",
    ),
    (
        errors.AlgorithmFailed,
        ("seg 1.0", "exited with status 2 after 3 s", "usage\nunknown flag -q\n\n"),
        False,
        'seg 1.0 exited with status 2 after 3 s. Last line: "unknown flag -q"',
    ),
    (
        errors.AlgorithmFailed,
        ("seg 1.0", "exited with status 2 after 3 s", ""),
        False,
        "seg 1.0 exited with status 2 after 3 s",
    ),
    (
        errors.OutOfMemory,
        ("seg 1.0", "was killed after 912 s (limit 8192 MiB)", "std::bad_alloc"),
        False,
        'seg 1.0 was killed after 912 s (limit 8192 MiB). Last line: "std::bad_alloc"',
    ),
    (
        errors.TimeLimitExceeded,
        ("seg 1.0", "was ended after its limit of 600 s", "tile 3 of 9"),
        False,
        'seg 1.0 was ended after its limit of 600 s. Last line: "tile 3 of 9"',
    ),
    (
        errors.AlgorithmUnavailable,
        ("seg 1.0", "no image dynsvc/seg:1.0 on this host"),
        False,
        "seg 1.0: no image dynsvc/seg:1.0 on this host",
    ),
    (
        errors.DeviceUnavailable,
        ("GPU", "the driver sees none"),
        False,
        "GPU is not available on this host: the driver sees none",
    ),
    (
        errors.OutputMissing,
        ("seg 1.0", "*-seg.png", "an empty a-seg.png"),
        False,
        "seg 1.0 wrote an empty a-seg.png, expected *-seg.png",
    ),
    (
        errors.OutputRefused,
        ("seg 1.0", "../x", "its name does not stay in the folder"),
        False,
        "seg 1.0 wrote '../x', which is refused: its name does not stay in the folder",
    ),
    (
        errors.ArtifactCorrupt,
        ("14/input.jpg", "10 bytes", "900 bytes"),
        False,
        "artifact 14/input.jpg has 10 bytes, expected 900 bytes",
    ),
    (
        errors.ArtifactMissing,
        ("14/input.jpg", "/data/artifacts"),
        False,
        (
            "artifact 14/input.jpg is not in /data/artifacts. "
            "Hosts that share orders need one artifact store (DYNSVC_ARTIFACTS)"
        ),
    ),
    (
        errors.OrderOverdue,
        ("14", "dynsvc.run_algorithm", 3600.0),
        False,
        "order 14: not done in time, ended during dynsvc.run_algorithm; limit 3600 s (DYNSVC_ORDER_LIMIT_S)",
    ),
    (
        errors.LoaderFailed,
        ("17", "EError: exit 1"),
        False,
        "annotation loader's job 17 failed: EError: exit 1",
    ),
    (
        errors.DependencyMissing,
        ("scikit-image", "demo"),
        False,
        "scikit-image is not installed; pip install 'dynsvc[demo]'",
    ),
    (
        errors.AttemptEnded,
        ("14", "another attempt has begun"),
        False,
        "order 14: attempt ended: another attempt has begun",
    ),
    (
        errors.Cancelled,
        ("14", "the job was removed"),
        False,
        "order 14: attempt ended: the job was removed",
    ),
]
rows = pytest.mark.parametrize(
    ("error", "transient", "text"),
    [pytest.param(kind(*args), transient, text, id=kind.__name__) for kind, args, transient, text in ROWS],
)


def all_classes(root: type[DynsvcError] = DynsvcError) -> set[type[DynsvcError]]:
    own = {child for child in root.__subclasses__() if child.__module__ == errors.__name__}
    return {root}.union(*(all_classes(child) for child in own))


def test_every_class_has_a_row_here():
    assert {kind for kind, *_ in ROWS} == all_classes()


def test_every_class_is_public():
    assert {kind.__name__ for kind in all_classes()} <= set(errors.__all__)


@rows
def test_the_text_says_what_was_found_and_expected(error, transient, text):
    assert str(error) == text
    assert error.headline == f"{type(error).__name__}: {text}"


@rows
def test_the_class_says_whether_to_try_again(error, transient, text):
    assert error.transient is transient


@rows
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickling(error, transient, text, protocol):
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is type(error)
    assert (copy.args, vars(copy), str(copy)) == (error.args, vars(error), text)


@rows
def test_an_error_survives_json(error, transient, text):
    copy = from_document(json.loads(json.dumps(to_document(error))))
    assert type(copy) is type(error)
    assert (vars(copy), str(copy)) == (vars(error), text)


def test_a_document_of_no_error_of_ours_is_a_key_error():
    with pytest.raises(KeyError):
        from_document({"error": "SystemExit", "args": []})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "missing"),
        ("", "''"),
        (0, "0"),
        ("it's", '"it\'s"'),
        ("a\x1b\nb", "'a\\x1b\\nb'"),
        ("\u202e", "'\\u202e'"),
        ("x" * 118, repr("x" * 118)),
        ("x" * 119, "'" + "x" * 119 + "… (121 characters)"),
    ],
)
def test_a_witness_is_one_short_quoted_line(value, text):
    assert shown(value) == text
