"""Stage `export`: a registered version, fetched and checked, becomes a bundle. How that is laid out: `bundle.py`."""

from __future__ import annotations

import json
import logging
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genai_lifecycle.config import DATA_ROOT, E2EConfig, check_model_uri
from genai_lifecycle.errors import BundleError, ExportDeclined
from genai_lifecycle.models import bundle, bundle_place, mlmodel, packaging
from genai_lifecycle.models.fingerprint import artifacts_sha256, file_sha256
from genai_lifecycle.models.source import weights_sha256
from genai_lifecycle.runtime.scratch import scratch_folder
from genai_lifecycle.settings import Settings, setting
from genai_lifecycle.store import model_registry
from genai_lifecycle.store.model_registry import ModelVersion
from genai_lifecycle.store.tracking_store import Store


@dataclass(frozen=True)
class ExportSettings(Settings):
    """Which version becomes a bundle, and where."""

    model_uri: str | None = setting(
        None, "models:/NAME/VERSION or models:/NAME@ALIAS; the champion when left out",
        metavar="URI", check=check_model_uri,
    )  # fmt: skip
    output_dir: Path = setting(DATA_ROOT / "exported_model", "folder of the bundle", metavar="FOLDER")
    overwrite: bool = setting(False, "replace also a bundle that was changed since, or a folder that is none")
    wheels: bool = setting(False, "with every wheel, for building without internet")


@dataclass(frozen=True)
class ExportResult:
    """A bundle, as its manifest describes it."""

    folder: str
    name: str
    version: str
    alias: str | None  # by which the version was found
    image: str  # name:version that build.sh gives the image
    engine: str
    precision: str
    weights_sha256: str
    files: int  # without the manifest itself
    size_bytes: int


log = logging.getLogger(__name__)

ARTIFACTS = Path("artifacts")  # of the served model, below the folder that MLflow keeps
# What a version that `deploy` made always has; without one of them it cannot answer without the network.
NEEDED = ("prompt.json", "golden.json", "code/__init__.py", "model/config.json", "model/tokenizer.json")
CONVERTED = ("openvino_model.xml", "openvino_model.bin")
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".bin", ".dill")
_PICKLE_STARTS = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_S3_VARIABLES = {
    "s3_endpoint_url": "MLFLOW_S3_ENDPOINT_URL",
    "s3_access_key": "AWS_ACCESS_KEY_ID",
    "s3_secret_key": "AWS_SECRET_ACCESS_KEY",
}
_DEPLOY_AGAIN = "Run --mode deploy and --mode test, and export the new version."


def export_model(config: E2EConfig, store: Store, settings: ExportSettings) -> ExportResult:
    """Write the bundle of the version that `settings` names (the champion) to its `output_dir`.

    Raises:
        NotFound: no such version or alias, or its files are gone.
        TrackingUnavailable: the store of its files does not answer.
        ExportDeclined: torch answers in it.
        BundleError: it must not be exported, or cannot be written where it shall be.
    """
    version, alias = model_registry.named(config.registered_model_name, settings.model_uri)
    bundle_place.require_bundle_place(config, settings.output_dir, overwrite=settings.overwrite)
    log.info("Exporting %s version %s.", version.name, version.version)
    with bundle.told_as_bundle_errors(config.staging_dir), scratch_folder(config.staging_dir, "export") as scratch:
        with _s3_environment(config):
            _require_space(config, settings, model_registry.size_bytes(version))
            model = model_registry.download(version, scratch)
        check_model(model, version)
        identity = _identity(model, version, alias) | {"changed_from_registry": _forget_the_machine(model, version)}
        manifest = bundle.write(
            model, settings.output_dir, identity,
            overwrite=settings.overwrite, keep=bundle_place.kept(config), wheels=settings.wheels,
        )  # fmt: skip
    return _result(settings.output_dir.resolve(), manifest)


# --- where it comes from ---------------------------------------------------------------------------


@contextmanager
def _s3_environment(config: E2EConfig) -> Iterator[None]:
    """The S3 flags as the variables that MLflow's S3 client reads, inside the block only."""
    given = {variable: getattr(config, name) for name, variable in _S3_VARIABLES.items() if getattr(config, name)}
    before = {variable: os.environ.get(variable) for variable in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value


def _require_space(config: E2EConfig, settings: ExportSettings, model_bytes: int) -> None:
    """For the download and for the bundle, each where it will be."""
    added = bundle.SERVER_BYTES + (bundle.WHEELS_BYTES if settings.wheels else 0)
    bundle.require_space(config.staging_dir, model_bytes)
    bundle.require_space(settings.output_dir, model_bytes + added)


# --- may it be exported ---------------------------------------------------------------------------


def check_model(model: Path, version: ModelVersion) -> None:
    """Raises BundleError for a model folder that is unsafe, not whole, or not what was registered."""
    who = f"Version {version.version} of {version.name}"
    _refuse_pickles(model, who)
    _refuse_hub(model, who)
    _require_files(model, who)
    _require_converted(model, who)
    _require_weights(model, version, who)
    _require_artifacts(model, version, who)


def _refuse_pickles(model: Path, who: str) -> None:
    for path in sorted(model.rglob("*")):
        if path.is_file() and _is_pickle(path):
            raise BundleError(
                f"{who} holds a pickle, {path.relative_to(model)}, which runs code of its own when it is loaded.",
                hint=f"Pickles are not exported. {_DEPLOY_AGAIN}",
            )


def _is_pickle(path: Path) -> bool:
    """By its name; else by its first bytes, except in formats whose first bytes are numbers."""
    if path.name in CONVERTED and path.parent.name == "ir":
        return False
    if path.suffix.lower() in PICKLES:
        return True
    if path.suffix == ".safetensors":
        return False
    with path.open("rb") as file:
        start = file.read(2)
    return start in _PICKLE_STARTS or (start == b"PK" and _has_pickles_inside(path))


def _has_pickles_inside(path: Path) -> bool:
    """Of a zip file, which is what torch.save writes."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith((".pkl", ".pickle")) for name in archive.namelist())


def _refuse_hub(model: Path, who: str) -> None:
    pointer = _hub_pointer(model)
    if pointer:
        raise BundleError(
            f"{who} still points at the HuggingFace Hub ({pointer}), which a bundle cannot reach.",
            hint=f"{_DEPLOY_AGAIN} It stores the weights themselves.",
        )


def _hub_pointer(model: Path) -> str:
    """Where loading would ask the Hub: for files, for code, for an adapter's base, or for weights that are missing."""
    described = _text(model / "MLmodel")
    found = re.search(r"^\s*(?:uri: ['\"]?hf:/|source_model_name:).*$", described, re.MULTILINE)
    if found:
        return f"MLmodel: {found[0].strip()}"
    checkpoint = model / ARTIFACTS / "model"
    if re.search(r'"auto_map"[^}]*--', _text(checkpoint / "config.json")):
        return "config.json: auto_map with code of another repository"
    if (checkpoint / "adapter_config.json").exists():
        return "adapter_config.json: an adapter without its base model"
    return "" if any(checkpoint.glob("*.safetensors")) else "it has no weights of its own"


def _text(path: Path) -> str:
    return path.read_text("utf-8", errors="replace") if path.is_file() else ""


def _require_files(model: Path, who: str) -> None:
    for name in NEEDED:
        path = model / ARTIFACTS / name
        if not path.is_file():
            raise BundleError(f"{who} was not made by --mode deploy: it has no {ARTIFACTS / name}.", hint=_DEPLOY_AGAIN)
        if path.suffix == ".json" and not _json(path):
            raise BundleError(f"{who} has a damaged file, {ARTIFACTS / name}.", hint=_DEPLOY_AGAIN)


def _require_converted(model: Path, who: str) -> None:
    """The image has no torch, so the OpenVINO engine must be able to answer."""
    conversion = _conversion(model)
    if not conversion.get("converted"):
        reason = conversion.get("reason") or "it has no converted model"
        raise ExportDeclined(
            f"{who} answers with torch ({reason}), and the image has no torch.",
            hint="Deploy it with --engine auto where its architecture is converted; else --mode serve --start runs it.",
        )
    missing = [name for name in CONVERTED if not (model / ARTIFACTS / "ir" / name).is_file()]
    if missing:
        raise BundleError(f"{who} has lost a file of its converted model, {missing[0]}.", hint=_DEPLOY_AGAIN)


def _conversion(model: Path) -> dict[str, Any]:
    return _json(model / ARTIFACTS / "ir" / "conversion.json")


def _json(path: Path) -> Any:
    """What the file says; an empty dict where it is missing or damaged."""
    try:
        return json.loads(_text(path) or "{}")
    except ValueError:
        return {}


def _require_weights(model: Path, version: ModelVersion, who: str) -> None:
    registered, found = version.tags.get("weights_sha256"), weights_sha256(model / ARTIFACTS / "model")
    if registered != found:
        raise BundleError(
            f"The weights of {who[0].lower()}{who[1:]} have sha256 {found[:12]}, and {str(registered)[:12]} was "
            "registered.",
            hint=f"Its files were changed, or not fetched whole. {_DEPLOY_AGAIN}",
        )


def _require_artifacts(model: Path, version: ModelVersion, who: str) -> None:
    """All that deploy laid out and all that runs; of a version older than these records the weights only."""
    artifacts = model / ARTIFACTS
    for tag, where, folder, names in (
        ("artifacts_sha256", f"in {ARTIFACTS}/", artifacts, [path.name for path in artifacts.iterdir()]),
        ("entry_sha256", " and ".join(packaging.ENTRY), model, packaging.ENTRY),
    ):
        if tag in version.tags and artifacts_sha256(folder, names) != version.tags[tag]:
            raise BundleError(
                f"The files {where} of {who[0].lower()}{who[1:]} are not those that were registered.",
                hint=f"One was changed, added or lost in the artifact store. {_DEPLOY_AGAIN}",
            )


def _forget_the_machine(model: Path, version: ModelVersion) -> dict[str, str]:
    """Files that are no longer as the registry keeps them -> the sha256 that they have there."""
    before = file_sha256(model / mlmodel.FILE)
    try:
        changed = mlmodel.forget_the_machine(model)
    except ValueError as exc:
        raise BundleError(f"Version {version.version} of {version.name}: {exc}.", hint=_DEPLOY_AGAIN) from exc
    return {f"model/{mlmodel.FILE}": before} if changed else {}


# --- what the manifest says -----------------------------------------------------------------------


def _identity(model: Path, version: ModelVersion, alias: str | None) -> dict[str, Any]:
    prompt, tags = _json(model / ARTIFACTS / "prompt.json"), version.tags
    return {
        "model": {"name": version.name, "version": version.version, "alias": alias, "uri": version.uri},
        "base_model": tags.get("model"),
        "base_model_revision": tags.get("model_revision") or None,
        "weights_sha256": tags["weights_sha256"],
        "prompt": f"{prompt.get('name')}/{prompt.get('version')}",
        "run_id": tags.get("run_id"),
        "engine": "openvino",
        "precision": _conversion(model).get("precision"),
        "image": f"{_image_name(version.name)}:{version.version}",
    }


def _image_name(name: str) -> str:
    """As Docker allows it: small letters, digits and single dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "model"


def _result(folder: Path, manifest: Mapping[str, Any]) -> ExportResult:
    model, files = manifest["model"], manifest["files"]
    return ExportResult(
        folder=str(folder),
        name=model["name"],
        version=model["version"],
        alias=model["alias"],
        image=manifest["image"],
        engine=manifest["engine"],
        precision=manifest["precision"],
        weights_sha256=manifest["weights_sha256"],
        files=len(files),
        size_bytes=sum((folder / path).stat().st_size for path in files),
    )
