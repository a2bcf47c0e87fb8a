"""Model versions and their aliases: `candidate`, `champion`, `previous`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genai_lifecycle.errors import NotFound, TrackingUnavailable
from genai_lifecycle.store.seam import s3_problem, seam
from genai_server.registry import alias_moves
from genai_server.registry.alias_moves import PREVIOUS

CANDIDATE, CHAMPION = "candidate", "champion"
BY_TEST = "test"  # how a version became champion; the other way is a rollback


@dataclass(frozen=True)
class ModelVersion:
    """One registered version."""

    name: str
    version: str
    source: str  # where its files are, for example models:/m-0123
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


@seam
def register(name: str, model_id: str, run_id: str, tags: Mapping[str, str]) -> ModelVersion:
    """Make a new version of `name` from a logged model."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    try:
        client.create_registered_model(name)
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(name, f"models:/{model_id}", run_id, dict(tags), model_id=model_id)
    return ModelVersion(name, str(made.version), made.source, dict(tags))


@seam
def by_alias(name: str, alias: str) -> ModelVersion | None:
    """The version that has the alias, or None."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        found = mlflow.MlflowClient().get_model_version_by_alias(name, alias)
    except MlflowException as exc:
        # MLflow says INVALID_PARAMETER_VALUE for a missing alias, RESOURCE_DOES_NOT_EXIST for a missing model.
        if exc.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
            return None
        raise
    return ModelVersion(name, str(found.version), found.source, dict(found.tags))


@seam
def by_version(name: str, version: str) -> ModelVersion | None:
    """The version of this number, or None."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        found = mlflow.MlflowClient().get_model_version(name, version)
    except MlflowException as exc:
        if exc.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return ModelVersion(name, str(found.version), found.source, dict(found.tags))


def candidate(name: str) -> ModelVersion:
    """The version that waits for its test. Raises NotFound when nothing was deployed yet."""
    found = by_alias(name, CANDIDATE)
    if found is None:
        raise NotFound(f"There is no candidate version of {name!r}.", hint="Run --mode deploy first.")
    return found


def named(name: str, model_uri: str | None) -> tuple[ModelVersion, str | None]:
    """The version that `model_uri` names (None: the champion of `name`) and the alias it was found by.

    Raises:
        NotFound: no such version or alias.
    """
    uri = model_uri or f"models:/{name}@{CHAMPION}"
    name, alias, number = re.fullmatch(r"models:/([^/:@]+)(?:@(.+)|/(.+))", uri).groups()
    found = by_alias(name, alias) if alias else by_version(name, number)
    if found is not None:
        return found, alias
    if model_uri is None:
        raise NotFound(
            f"No version of {name!r} is {CHAMPION} yet.",
            hint="Run --mode test, or name a version: --model-uri models:/NAME/VERSION",
        )
    what = f"with the alias {alias!r}" if alias else number
    raise NotFound(
        f"There is no version {what} of {name!r}.", hint="--mode ui shows the versions; check --tracking-uri too."
    )


def best_uri(name: str) -> str:
    """Address of the champion; of the candidate where nothing has passed a test yet. Raises NotFound."""
    if by_alias(name, CHAMPION):
        return f"models:/{name}@{CHAMPION}"
    candidate(name)
    return f"models:/{name}@{CANDIDATE}"


@seam
def load(model_uri: str) -> Any:
    """The version as MLflow's PyFunc, in this process. Raises NotFound where there is none."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return mlflow.pyfunc.load_model(model_uri)
    except MlflowException as exc:
        if exc.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise NotFound(f"There is no model {model_uri}.", hint="Run --mode deploy, or name another one.") from exc
        raise


@seam
def set_alias(name: str, alias: str, version: str) -> None:
    import mlflow

    mlflow.MlflowClient().set_registered_model_alias(name, alias, version)


@seam
def tag_version(name: str, version: str, tags: Mapping[str, str]) -> None:
    import mlflow

    for key, value in tags.items():
        mlflow.MlflowClient().set_model_version_tag(name, version, key, value)


# --- champion and previous ------------------------------------------------------------------------


@seam
def promote(candidate: ModelVersion) -> tuple[str, str | None]:
    """Make a version that passed its test the champion; returns (champion, previous).

    A version that is the champion already moves nothing. Raises Busy when others move the aliases all the time.
    """
    alias_moves.put(_ModelAliases(candidate.name), CHAMPION, int(candidate.version), BY_TEST)
    previous = by_alias(candidate.name, PREVIOUS)
    return candidate.version, previous.version if previous else None


@seam
def swap_champion(name: str) -> tuple[str, str]:
    """Make `previous` the champion, and the champion `previous`; returns (champion, previous).

    Raises:
        NotFound: there is no champion, or none before it.
        Busy: another command has just moved the champion, or others do all the time.
    """
    try:
        move = alias_moves.roll_back(_ModelAliases(name), CHAMPION)
    except alias_moves.NothingBefore as exc:
        raise NotFound(
            f"No version of {name!r} before the champion is recorded.",
            hint="A second version that passes --mode test makes the first one `previous`.",
        ) from exc
    return str(move.version), str(move.former)


@seam
def settle(name: str) -> None:
    """Bring a move of the aliases to its end that was killed. Raises Busy when others move them all the time."""
    alias_moves.settle(_ModelAliases(name))


@seam
def remove_unless_named(name: str, version: str) -> tuple[str, ...]:
    """Delete a version that has no alias, while none can move; returns the aliases for which it stays.

    Raises Busy when others move the aliases all the time.
    """
    import mlflow

    client = mlflow.MlflowClient()
    with alias_moves.no_moves(_ModelAliases(name)):
        aliases = tuple(client.get_model_version(name, version).aliases)
        if not aliases:
            client.delete_model_version(name, version)
    return aliases


class _ModelAliases:
    """What `alias_moves` needs of a registered model."""

    def __init__(self, name: str):
        self._name = name

    def tags(self) -> Mapping[str, str]:
        model = _registered_model(self._name)
        return dict(model.tags) if model else {}

    def aliases(self) -> Mapping[str, int]:
        model = _registered_model(self._name)
        return {alias: int(version) for alias, version in model.aliases.items()} if model else {}

    @seam
    def set_tag(self, key: str, value: str) -> None:
        import mlflow

        mlflow.MlflowClient().set_registered_model_tag(self._name, key, value)

    @seam
    def delete_tag(self, key: str) -> None:
        import mlflow

        mlflow.MlflowClient().delete_registered_model_tag(self._name, key)

    def has_version(self, version: int) -> bool:
        return by_version(self._name, str(version)) is not None

    def set_alias(self, alias: str, version: int) -> None:
        set_alias(self._name, alias, str(version))

    @seam
    def delete_alias(self, alias: str) -> None:
        import mlflow

        mlflow.MlflowClient().delete_registered_model_alias(self._name, alias)

    def tag_version(self, version: int, tags: Mapping[str, str]) -> None:
        tag_version(self._name, str(version), tags)


@seam
def _registered_model(name: str) -> Any:
    """As MLflow has it, or None."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return mlflow.MlflowClient().get_registered_model(name)
    except MlflowException as exc:
        if exc.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


# --- the files of a version -----------------------------------------------------------------------


@seam
def size_bytes(version: ModelVersion) -> int:
    """Bytes of all files of a version, before they are downloaded. Raises NotFound where there are none."""
    with _artifact_store_errors(version):
        total = _size_below(version.uri)
    if not total:
        raise _files_gone(version)
    return total


def _size_below(uri: str) -> int:
    import mlflow

    total = 0
    for item in mlflow.artifacts.list_artifacts(artifact_uri=uri):
        total += _size_below(f"{uri}/{item.path.rpartition('/')[2]}") if item.is_dir else item.file_size or 0
    return total


@seam
def download(version: ModelVersion, folder: Path, path: str = "") -> Path:
    """Copy the files of a version below `folder`, from wherever they are kept; returns the model's folder.

    Args:
        path: of one file or folder inside the model; "" is all of it. What is returned is then this one.

    Raises:
        NotFound: the registry knows the version, but its files are gone.
        StorageFailed: the S3 store does not answer, refuses the keys, or hands out a damaged file.
    """
    import mlflow

    with _artifact_store_errors(version):
        # Without dst_path a local store hands out its own folder, and writes into it.
        uri = f"{version.uri}/{path}" if path else version.uri
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))


@contextmanager
def _artifact_store_errors(version: ModelVersion) -> Iterator[None]:
    """Errors of the S3 client, and of files that are not where the registry says, in our words."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except ModuleNotFoundError as exc:
        package = "boto3" if (exc.name or "").startswith("botocore") else exc.name
        raise TrackingUnavailable(
            f"The files of {version.uri} are in a store that needs the package {package}, which is not installed.",
            hint=f"Install it beside MLflow: python -m pip install {package}",
        ) from exc
    except FileNotFoundError as exc:
        raise _files_gone(version) from exc
    except Exception as exc:
        if isinstance(exc, MlflowException) and exc.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise _files_gone(version) from exc
        if problem := s3_problem(exc):
            raise problem from exc
        if _is_of_s3(exc):
            raise TrackingUnavailable(
                f"The S3 store with the files of {version.uri} does not hand them out ({type(exc).__name__}).",
                hint="Check --s3-endpoint-url and the keys (or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY).",
            ) from exc
        raise


def _is_of_s3(exc: Exception) -> bool:
    """Whether it comes from the S3 client, also where MLflow has made one error of several."""
    from mlflow.exceptions import MlflowException

    direct = type(exc).__module__.split(".")[0] in ("botocore", "boto3", "s3transfer")
    return direct or (isinstance(exc, MlflowException) and "s3://" in str(exc))


def _files_gone(version: ModelVersion) -> NotFound:
    return NotFound(
        f"The files of {version.uri} are not in the artifact store any more.",
        hint="Run --mode deploy and --mode test again, or name another version with --model-uri.",
    )
