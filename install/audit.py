"""`make audit`: known weaknesses of what the two locks name, found by pip-audit in the OSV database.

1. audit-exceptions.txt comes first: a line that cannot be read, or whose day has passed, fails, without network too.
2. The service is asked about a release whose weakness is known. Where it gives no answer, or knows nothing of that one,
   the locks are *not audited*. That is said in one line and passes: it is no finding. With --required it fails.
3. A finding fails, unless an exception names it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import requests

REPO = Path(__file__).resolve().parents[1]
LOCKS = (REPO / "requirements.lock", REPO / "demo_serving" / "package" / "requirements.lock")
APART = (REPO / "requirements.txt", "torch")  # the one pin that the lock leaves out
EXCEPTIONS = REPO / "audit-exceptions.txt"
OSV = "https://api.osv.dev/v1/query"
PATIENCE_S = 10.0
# requests 2.31.0 has had GHSA-9wx4-h78v-vm56 since 2024: who does not know that knows no weaknesses.
KNOWN = {"package": {"name": "requests", "ecosystem": "PyPI"}, "version": "2.31.0"}
PASSED, FOUND, NOT_AUDITED = 0, 1, 3  # exit codes
_NEXT_STEP = (
    "Raise the pin and run make lock (LOCK_FLAGS='--upgrade-package NAME' where it is not ours to pin), or accept it "
    "for a while in audit-exceptions.txt: {} {} YYYY-MM-DD REASON"
)


class AuditFailed(Exception):
    """What stands in the way, in one sentence."""


@dataclass(frozen=True)
class Accepted:
    """A line of audit-exceptions.txt: a finding that we live with until a day."""

    id: str
    package: str
    until: date
    reason: str


@dataclass(frozen=True)
class Finding:
    package: str
    version: str
    ids: tuple[str, ...]  # of one weakness: CVE-…, GHSA-…, PYSEC-…
    fixed_in: str
    summary: str

    def __str__(self) -> str:
        fixed = f"fixed in {self.fixed_in}" if self.fixed_in else "not fixed yet"
        return f"{self.package} {self.version}: {', '.join(self.ids)}, {fixed}: {self.summary[:160]}"


def main(arguments: Sequence[str] | None = None, today: date | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Known weaknesses of what the locks name.")
    parser.add_argument("--required", action="store_true", help="fail where the service cannot be reached")
    parser.add_argument("--osv-url", default=OSV, help=f"the service, or a mirror of it (default: {OSV})")
    parser.add_argument("--exceptions", type=Path, default=EXCEPTIONS, help="default: audit-exceptions.txt")
    flags = parser.parse_args(arguments)
    try:
        accepted = read_exceptions(flags.exceptions, today or date.today())
        if reason := silence(flags.osv_url):
            return _not_audited(reason, required=flags.required)
        return _judge(audit(flags.osv_url), accepted)
    except AuditFailed as exc:
        print(f"Error: {exc}", file=sys.stderr)
        return FOUND


def _not_audited(reason: str, *, required: bool) -> int:
    end = "With --required that is an error." if required else "That is no finding, so it passes; --required fails."
    print(f"Not audited: the advisory service cannot be reached ({reason}). {end}")
    return NOT_AUDITED if required else PASSED


def _judge(findings: Sequence[Finding], accepted: Sequence[Accepted]) -> int:
    new = []
    for finding in findings:
        item = next((item for item in accepted if _covers(item, finding)), None)
        print(f"Accepted until {item.until} ({item.reason}): {finding}" if item else f"Found: {finding}")
        new += [] if item else [finding]
    for item in accepted:
        if not any(_covers(item, finding) for finding in findings):
            print(f"No longer found, take it out of audit-exceptions.txt: {item.id} in {item.package}")
    print(f"Audited: {len(findings)} findings, {len(findings) - len(new)} of them accepted.")
    if new:
        print(_NEXT_STEP.format(new[0].ids[0], new[0].package))
    return FOUND if new else PASSED


def _covers(item: Accepted, finding: Finding) -> bool:
    return item.id in finding.ids and _plain(item.package) == _plain(finding.package)


# --- what we live with ----------------------------------------------------------------------------


def read_exceptions(file: Path, today: date) -> list[Accepted]:
    """Raises AuditFailed for a line that is wrong or out of date."""
    try:
        lines = enumerate(file.read_text("utf-8").splitlines(), 1)
    except OSError as exc:
        raise AuditFailed(f"{file} cannot be read: {exc.strerror}.") from None
    accepted = [_exception(f"{file.name}, line {number}", line) for number, line in lines if line.split("#")[0].strip()]
    expired = [item for item in accepted if item.until < today]
    if expired:
        item = expired[0]
        raise AuditFailed(
            f"The exception for {item.id} in {item.package} ended on {item.until} ({item.reason}). Raise the pin, or "
            f"look again and give it another day in {file.name}."
        )
    return accepted


def _exception(where: str, line: str) -> Accepted:
    parts = line.split(maxsplit=3)
    try:
        return Accepted(parts[0], parts[1], date.fromisoformat(parts[2]), parts[3].strip())
    except (IndexError, ValueError):
        raise AuditFailed(f"{where} is not `ID PACKAGE YYYY-MM-DD REASON`: {line!r}.") from None


# --- the service ----------------------------------------------------------------------------------


def silence(osv_url: str) -> str:
    """Why the service is of no use; empty when it knows the weakness that everybody knows."""
    try:
        response = requests.post(osv_url, json=KNOWN, timeout=PATIENCE_S)
        response.raise_for_status()
        known = response.json().get("vulns")
    except requests.HTTPError:
        return f"{osv_url} answers {response.status_code}"
    except (requests.RequestException, ValueError, AttributeError) as exc:
        return f"{osv_url}: {type(exc).__name__}"
    return "" if known else f"{osv_url} knows no weakness of {KNOWN['package']['name']} {KNOWN['version']}"


def audit(osv_url: str) -> list[Finding]:
    """What pip-audit finds. Raises AuditFailed when it cannot look at everything."""
    ours, image = pinned()
    others = [line for line in image if line not in ours]  # pip-audit takes one version of a package at a time
    return [finding for lines in (ours, others) for finding in _findings(_pip_audit(lines, osv_url))]


def _pip_audit(lines: Sequence[str], osv_url: str) -> list[Mapping[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("\n".join(lines), "utf-8")
        command = [
            sys.executable, "-m", "pip_audit", "-r", str(file), "--no-deps", "--disable-pip", "--format", "json",
            "--vulnerability-service", "osv", "--osv-url", osv_url, "--cache-dir", folder, "--progress-spinner", "off",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout)["dependencies"]
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise AuditFailed(f"pip-audit did not finish: {last}") from None


def _findings(dependencies: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    for item in dependencies:
        if "skip_reason" in item:
            raise AuditFailed(f"{item['name']} could not be audited: {item['skip_reason']}")
        for weakness in item["vulns"]:
            ids = tuple(sorted({weakness["id"], *weakness["aliases"]}))
            fixed = ", ".join(weakness["fix_versions"])
            yield Finding(item["name"], item["version"], ids, fixed, weakness["description"])


def pinned() -> tuple[list[str], list[str]]:
    """`name==version`, with its marker, of what is installed here and of what is in the image."""
    pin = re.compile(r"^[\w.-]+==[^\\\n]*[^\\\s]", re.MULTILINE)
    ours, image = (pin.findall(lock.read_text("utf-8")) for lock in LOCKS)
    file, name = APART
    return [*ours, re.search(rf"^{name}==\S+", file.read_text("utf-8"), re.MULTILINE)[0]], image


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    raise SystemExit(main())
