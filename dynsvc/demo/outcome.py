"""Begin and end of the demo: the algorithm that it runs, and the zip and the page that it leaves."""

from __future__ import annotations

import difflib
import os
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dynsvc import __version__
from dynsvc.algorithms import Algorithm, Catalog
from dynsvc.demo.installation import Installation
from dynsvc.demo.page import Facts, build_page
from dynsvc.demo.subject import Subject
from dynsvc.errors import DependencyMissing, OutputMissing, UnknownAlgorithm
from dynsvc.settings import Settings

__all__ = ["find_algorithm", "write_report"]

#: Import names of what the nuclei program needs when it runs as a process.
_NUCLEI = ("numpy", "cv2", "PIL")


def find_algorithm(name: str) -> Algorithm:
    """Return the algorithm of that name.

    Raises
    ------
    UnknownAlgorithm
        There is none (permanent).
    DependencyMissing
        It is ours, and what it needs is not installed (permanent).
    """
    environ = {key: os.environ[key] for key in ("DYNSVC_ALGORITHMS",) if key in os.environ}
    catalog = Catalog.load(Settings.load(environ).algorithms)
    if name not in catalog.algorithms:
        close = difflib.get_close_matches(name, catalog.algorithms, n=1)
        raise UnknownAlgorithm("demo", name, close[0] if close else None)
    missing = [module for module in _NUCLEI if find_spec(module) is None] if name == "nuclei" else []
    if missing:
        raise DependencyMissing(f"what the algorithm nuclei needs ({', '.join(missing)})", "demo")
    return catalog.algorithms[name]


def write_report(
    installation: Installation,
    *,
    algorithm: Algorithm,
    subject: Subject,
    order_id: str,
    result: Any,
    seen_s: Mapping[str, float],
    output: Path,
) -> Path:
    """Write ``result.zip`` and ``report.html`` to *output* and return the page's path.

    Parameters
    ----------
    result
        What Kue stores as the order's result.
    seen_s
        Seconds per step as they were seen from outside; the workers' own measurements win.

    Raises
    ------
    OutputMissing
        The loader got no zip (permanent).
    """
    jobs = list(installation.loader.jobs.values())
    if not jobs:
        raise OutputMissing(algorithm.name, "a zip at the loader", "nothing")
    zip_path = output / "result.zip"
    shutil.copyfile(jobs[-1].zip_path, zip_path)
    picture = output / ".region.jpg"
    subject.save_picture(picture)
    told = result if isinstance(result, dict) else {}
    measured = told.get("timings_s")
    facts = Facts(
        order_id=order_id,
        slide=subject.case_id,
        region=subject.region,
        mpp_um=subject.mpp_um,
        algorithm=f"{algorithm.name} {algorithm.version}",
        parameters=_parameters(algorithm),
        timings_s={**seen_s, **(measured if isinstance(measured, dict) else {})},
        versions=_versions(told.get("executed")),
    )
    try:
        page = build_page(zip_path, picture, facts)
    finally:
        picture.unlink()
    report = output / "report.html"
    part = output / ".report.html.part"
    part.write_text(page, encoding="utf-8")
    return part.replace(report)


def _parameters(algorithm: Algorithm) -> dict[str, str]:
    return {
        f"{parameter.flag} {parameter.help.partition(';')[0].lower()}".strip(): (
            f"{parameter.default} {parameter.unit.replace('um2', 'µm²').replace('um', 'µm')}".strip()
        )
        for parameter in algorithm.parameters.values()
        if parameter.default is not None
    }


def _versions(executed: object) -> dict[str, str]:
    versions = {"dynsvc": __version__, "Python": platform.python_version()}
    for package in ("celery", "openslide-bin", "scikit-image", "opencv-python-headless"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    if isinstance(executed, str) and executed:
        versions["executed"] = executed
    return versions
