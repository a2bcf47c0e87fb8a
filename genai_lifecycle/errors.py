"""Every error that is raised on purpose. The command line prints them without a traceback.

LifecycleError                exit 1
 |- ConfigError               exit 2   a setting is missing or wrong
 |- TrackingUnavailable       exit 3   the MLflow server or store does not answer
 |- NotFound                  exit 4   no such run, prompt, version or alias yet
 |- BundleError               exit 5   the export could not be written
 |- VerificationFailed        exit 6   the registered model answered wrongly
 |- ModelNotLoadable          exit 7   the base model does not exist or is no causal language model
 |- UnsafeWeights             exit 8   a checkpoint that only a pickle loader could read
 |- CasesInvalid              exit 9   the case file is missing, empty or malformed
 |- PortTaken                 exit 10  another program listens where ours should
 |- StorageFailed             exit 11  the artifact root, the scratch or the log folder cannot be written
 |- Busy                      exit 12  another run works on the same store, or another command moves the same aliases
 |- ServerFailed              exit 13  a server did not become ready, crashed again and again, or does not answer
 |- ConversionFailed          exit 14  the converted model answers with other tokens than transformers
 |- ServerDiffers             exit 15  a running server is not what the registry says
 |- GateRefused               exit 16  a version did not show what gate.yaml asks; no alias was moved
 |- LimitCrossed              exit 17  what the servers did in the last days crossed a limit of monitor.yaml
 `- ProblemsFound             exit 18  the doctor found something that is wrong

Ctrl-C ends with 130, as a shell expects.
"""


class LifecycleError(Exception):
    """`message` says what happened, `hint` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = ""):
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.args[0]}\n  -> {self.hint}" if self.hint else self.args[0]


class ConfigError(LifecycleError):
    """A setting is missing, out of range, or does not fit another one."""

    exit_code = 2


class TrackingUnavailable(LifecycleError):
    """The tracking server or store named by the user, or used until now, does not answer."""

    exit_code = 3


class NoPromptRegistry(TrackingUnavailable):
    """The tracking server answers, but keeps no prompts."""


class NotFound(LifecycleError):
    """A run, prompt, model version or alias that an earlier stage should have left is not there."""

    exit_code = 4


class BundleError(LifecycleError):
    """The standalone Docker package could not be written."""

    exit_code = 5


class ExportDeclined(BundleError):
    """Nothing is wrong, but no bundle is written: torch answers, and the image has none. `all` goes on."""


class VerificationFailed(LifecycleError):
    """The registered model did not pass its checks; no alias was moved."""

    exit_code = 6


class ModelNotLoadable(LifecycleError):
    """The base model cannot be found, reached, or read as a causal language model."""

    exit_code = 7


class UnsafeWeights(LifecycleError):
    """The checkpoint has pickled weights that torch's weights-only loader refuses."""

    exit_code = 8


class CasesInvalid(LifecycleError):
    """The case file is missing, empty, or has a malformed line (its number is in the message)."""

    exit_code = 9


class PortTaken(LifecycleError):
    """Another program already listens on the port."""

    exit_code = 10


class StorageFailed(LifecycleError):
    """A folder that we write to (artifacts, database, scratch, logs) is full, read-only or not reachable."""

    exit_code = 11


class Busy(LifecycleError):
    """Another run works on the store, or another command has just moved the aliases."""

    exit_code = 12


class ServerFailed(LifecycleError):
    """A server that we started did not become ready, ended by itself, or crashed again and again; or one that was
    named does not answer, or is none of ours."""

    exit_code = 13


class ConversionFailed(LifecycleError):
    """The model converted for the OpenVINO engine does not give transformers' greedy tokens."""

    exit_code = 14


class ServerDiffers(LifecycleError):
    """A running server and the registry do not say the same."""

    exit_code = 15


class GateRefused(LifecycleError):
    """A version did not show what gate.yaml asks of it; no alias was moved."""

    exit_code = 16


class LimitCrossed(LifecycleError):
    """A limit of monitor.yaml was crossed, or what people get is no longer what was evaluated."""

    exit_code = 17


class ProblemsFound(LifecycleError):
    """The doctor found something that keeps the other modes from working."""

    exit_code = 18
