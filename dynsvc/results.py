"""From the files an algorithm wrote to the zip that is delivered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dynsvc import algmeta, archive, provenance
from dynsvc.algorithms import Algorithm
from dynsvc.cache import Kept
from dynsvc.errors import OutputMissing, OutputRefused
from dynsvc.measured import Measured
from dynsvc.messages import Plan
from dynsvc.orders import safe_name
from dynsvc.outputs import OutputLimits, ResultFile, collect

__all__ = ["Packed", "checked", "pack", "pack_again"]

#: No metadata file of an algorithm is larger; a larger one is not read into memory.
_METADATA_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A checked result."""

    zip_path: Path
    #: What the zip is.
    measured: Measured
    #: Number of objects; 0 for "nothing found"; None where nothing tells.
    objects: int | None
    #: Sentences for the order's log.
    remarks: tuple[str, ...]


def pack(
    algorithm: Algorithm,
    plan: Plan,
    *,
    output_dir: Path,
    picture: Path,
    folder: Path,
    limits: OutputLimits,
    tell: Callable[[int | None, str | None], bytes],
) -> Packed:
    """Check what *algorithm* left in *output_dir*, correct what it could not know, and zip it.

    Parameters
    ----------
    algorithm, plan
        What was run, and on what.
    output_dir
        Its output folder, after its end.
    picture
        The input picture, which goes into the zip where the descriptor says so.
    folder
        Working folder of the caller; the zip is written there.
    limits
        How much an algorithm may leave.
    tell
        Gives ``provenance.json``, from the number of objects and the name of the picture in the zip.

    Raises
    ------
    OutputMissing
        A required file is missing or empty (permanent).
    OutputRefused
        A file must not leave the folder, or cannot be read as what it is (permanent).
    StorageUnavailable
        The zip cannot be written (transient).
    """
    name, outputs = algorithm.name, algorithm.outputs
    files = checked(algorithm, output_dir=output_dir, folder=folder, limits=limits)
    metadata = outputs.metadata_of(files)
    content: dict[str, Path | ResultFile | bytes] = dict(files)
    for each in metadata:
        content[each] = _true_metadata(files[each], plan)
    found = algmeta.found(
        masks=outputs.masks_of(files), tables=[files[table].open for table in outputs.tables_of(files)]
    )
    remarks = list(found.remarks)
    if outputs.metadata and not metadata:
        remarks.append(f"no {outputs.metadata} in the result: the loader will load nothing")
    if provenance.NAME in content:
        content[f"{name}-{provenance.NAME}"] = content.pop(provenance.NAME)
        remarks.append(f"the algorithm's own {provenance.NAME} is in the result as {name}-{provenance.NAME}")
    zip_path, made = _zip(
        content, algorithm, plan, picture=picture, objects=found.objects, tell=tell, folder=folder
    )
    return Packed(zip_path=zip_path, measured=made, objects=found.objects, remarks=tuple(remarks))


def checked(
    algorithm: Algorithm, *, output_dir: Path, folder: Path, limits: OutputLimits
) -> dict[str, ResultFile]:
    """Return the files that *algorithm* left, by name; those of its own zip, unpacked, too.

    What does not fit into memory is unpacked into *folder*.

    Raises
    ------
    OutputMissing, OutputRefused, StorageUnavailable
        As :func:`pack`.
    """
    name, outputs = algorithm.name, algorithm.outputs
    loose = {file.name: file for file in collect(output_dir, name, limits)}
    outputs.require({file.name: file.size_bytes for file in loose.values()}, name)
    packed = loose.pop(outputs.archive or "", None)
    if packed is None:
        return dict(loose)
    # Its own zip was made from the same folder: what lies there loose too is not packed twice.
    own = archive.unpack(packed, folder / "unpacked", name, limits)
    if not own:
        raise OutputMissing(name, f"files in {outputs.archive}", "a zip without entries")
    return {file.name: file for file in own} | loose


def pack_again(
    kept: Kept,
    algorithm: Algorithm,
    plan: Plan,
    *,
    picture: Path,
    folder: Path,
    tell: Callable[[int | None, str | None], bytes],
) -> Packed:
    """Zip a kept result for another order, with a picture and a provenance of its own.

    Raises
    ------
    StorageUnavailable
        The zip cannot be written (transient).
    """
    origin = kept.origin
    remark = f"same image, parameters and pixels as order {origin['order_id']}: its result is delivered again"
    zip_path, made = _zip(
        dict(kept.files), algorithm, plan, picture=picture, objects=kept.objects, tell=tell, folder=folder
    )
    return Packed(zip_path=zip_path, measured=made, objects=kept.objects, remarks=(remark,))


def _zip(
    content: dict[str, Path | ResultFile | bytes],
    algorithm: Algorithm,
    plan: Plan,
    *,
    picture: Path,
    objects: int | None,
    tell: Callable[[int | None, str | None], bytes],
    folder: Path,
) -> tuple[Path, Measured]:
    # The original's zip holds its input beside the results, under the order's id.
    name = f"{safe_name(plan.order.job_id)}.{'JPEG' if picture.suffix == '.jpg' else 'PNG'}"
    added = algorithm.outputs.include_input and name not in content
    if added:
        content[name] = picture
    content[provenance.NAME] = tell(objects, name if added else None)
    zip_path = folder / "result.zip"
    return zip_path, archive.build(zip_path, content)


def _true_metadata(file: ResultFile, plan: Plan) -> bytes:
    if file.size_bytes > _METADATA_BYTES:
        raise OutputRefused(file.algorithm, file.name, f"metadata of {file.size_bytes} bytes")
    with file.open() as stream:
        text = stream.read()
    try:
        return algmeta.corrected(
            text,
            name=file.name,
            image_width_px=plan.slide.width_px,
            image_height_px=plan.slide.height_px,
            mpp_um=plan.slide.mpp_um,
        )
    except ValueError as error:
        raise OutputRefused(file.algorithm, file.name, f"it is no metadata document ({error})") from error
