"""`make audit`: real pip-audit against a stand-in for the OSV service."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import threading
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import REPO, free_port

pytestmark = pytest.mark.slow


TODAY = date(2026, 11, 25)
CANARY = ("requests", "2.31.0")
LOCK = (REPO / "requirements.lock").read_text("utf-8")
WEAK = re.search(r"^(jinja2)==(\S+)", LOCK, re.MULTILINE).groups()


def load():
    spec = importlib.util.spec_from_file_location("audit_program", REPO / "install" / "audit.py")
    module = sys.modules["audit_program"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Osv(BaseHTTPRequestHandler):
    """Answers as api.osv.dev does, from `server.known`: (package, version) -> id."""

    def do_POST(self):
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = (query["package"]["name"], query["version"])
        self.server.asked.append(asked)
        found = [advisory(asked[0], id) for id in self.server.known.get(asked, ())]
        data = json.dumps({"vulns": found} if found else {}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def advisory(package: str, id: str) -> dict:
    events = [{"introduced": "0"}, {"fixed": "9.9"}]
    affected = {"package": {"name": package, "ecosystem": "PyPI"}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}
    return {"id": id, "aliases": [f"CVE-{id}"], "summary": "it is weak", "affected": [affected]}


def start_osv() -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Osv)
    server.asked, server.status, server.known = [], 200, {CANARY: ["GHSA-canary"]}
    server.url = f"http://127.0.0.1:{server.server_port}/v1/query"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


@pytest.fixture
def osv():
    server = start_osv()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def both_locks():
    """(what pip-audit finds in the two locks of this checkout, what the service was asked): one run for all tests."""
    server = start_osv()
    server.known[WEAK] = ["GHSA-1", "GHSA-2"]
    findings = load().audit(server.url)
    server.shutdown()
    server.server_close()
    return findings, set(server.asked)


@pytest.fixture
def audit(tmp_path, both_locks, monkeypatch):
    """`audit(url, exceptions, flags)` is the program's exit code; what pip-audit finds is known (`found` of it)."""
    module, exceptions = load(), tmp_path / "audit-exceptions.txt"

    def run(url: str, lines: str = "", *flags: str, found: int = 0) -> int:
        monkeypatch.setattr(module, "audit", lambda osv_url: both_locks[0][:found])
        exceptions.write_text(f"# words\n\n{lines}\n")
        return module.main(["--osv-url", url, "--exceptions", str(exceptions), *flags], TODAY)

    return run


def test_every_package_of_both_locks_is_asked_about_and_torch(both_locks):
    findings, asked = both_locks
    image = (REPO / "demo_serving" / "package" / "requirements.lock").read_text("utf-8")
    assert set(re.findall(r"^([\w-]+)==(\S+)", image, re.MULTILINE)) <= asked and "torch" in dict(asked)
    for_all, for_some = (set(re.findall(rf"^([\w-]+)==(\S+){end}", LOCK, re.MULTILINE)) for end in (r" \\", " ; "))
    assert for_all <= asked and not {name for name, _ in for_some & asked} & {"pywin32", "colorama"}
    assert [(item.package, item.version) for item in findings] == [WEAK, WEAK]


def test_nothing_found_passes(audit, osv, capsys):
    assert audit(osv.url) == 0
    assert capsys.readouterr().out == "Audited: 0 findings, 0 of them accepted.\n"


def test_a_finding_fails_with_the_next_step(audit, osv, capsys):
    assert audit(osv.url, found=1) == 1
    found, count, step = capsys.readouterr().out.splitlines()
    assert found == f"Found: {' '.join(WEAK)}: CVE-GHSA-1, GHSA-1, fixed in 9.9: it is weak"
    assert count == "Audited: 1 findings, 0 of them accepted."
    assert "make lock" in step and step.endswith(": CVE-GHSA-1 jinja2 YYYY-MM-DD REASON")


@pytest.mark.parametrize("id", ["GHSA-1", "CVE-GHSA-1"])
def test_an_exception_accepts_a_finding_until_its_day(id, audit, osv, capsys):
    assert audit(osv.url, f"{id}  Jinja2  2026-11-25  no template of a stranger is rendered", found=1) == 0
    assert "Accepted until 2026-11-25 (no template of a stranger is rendered): jinja2" in capsys.readouterr().out


def test_an_exception_is_for_one_finding_in_one_package(audit, osv):
    assert audit(osv.url, "GHSA-1 jinja2 2027-01-01 why", found=2) == 1
    assert audit(osv.url, "GHSA-1 click 2027-01-01 why\nGHSA-2 jinja2 2027-01-01 why", found=2) == 1
    assert audit(osv.url, "GHSA-1 jinja2 2027-01-01 why\nGHSA-2 jinja2 2027-01-01 why", found=2) == 0


def test_an_exception_that_nothing_needs_is_told(audit, osv, capsys):
    assert audit(osv.url, "GHSA-1 jinja2 2027-01-01 why") == 0
    assert "No longer found, take it out of audit-exceptions.txt: GHSA-1 in jinja2" in capsys.readouterr().out


def test_an_exception_that_has_ended_fails_without_network_too(audit, osv, capsys):
    for url in (osv.url, f"http://127.0.0.1:{free_port()}/"):
        assert audit(url, "GHSA-1 jinja2 2026-11-24 was to be looked at", found=1) == 1
        assert "GHSA-1 in jinja2 ended on 2026-11-24 (was to be looked at)" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["GHSA-1 jinja2 2027-01-01", "GHSA-1 jinja2 soon why", "GHSA-1"])
def test_an_exception_without_day_or_reason_fails(line, audit, osv, capsys):
    assert audit(osv.url, line) == 1
    assert f"audit-exceptions.txt, line 3 is not `ID PACKAGE YYYY-MM-DD REASON`: {line!r}" in capsys.readouterr().err


def test_without_the_service_it_says_so_in_one_line_and_passes_but_where_it_is_required(audit, capsys):
    url = f"http://127.0.0.1:{free_port()}/"
    assert audit(url) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Not audited: the advisory service cannot be reached ({url}: ConnectionError).")
    assert out.count("\n") == 1 and "--required fails" in out
    assert audit(url, "", "--required") == 3


@pytest.mark.parametrize("known", [{}, {("requests", "2.32.0"): ["GHSA-other"]}])
def test_a_mirror_that_knows_no_weaknesses_is_no_audit(known, audit, osv, capsys):
    """A registry's mirror may answer everything with nothing: pip-audit then finds no weakness and passes."""
    osv.known = known
    assert audit(osv.url, "", "--required") == 3
    assert "knows no weakness of requests 2.31.0" in capsys.readouterr().out


def test_a_service_in_trouble_is_no_audit(audit, osv, capsys):
    osv.status = 503
    assert audit(osv.url, "", "--required") == 3
    assert "/v1/query answers 503" in capsys.readouterr().out


def test_a_service_that_fails_in_between_is_an_error(audit, osv, capsys, monkeypatch):
    module = load()
    monkeypatch.setattr(module, "silence", lambda url: "")
    osv.status = 503
    assert module.main(["--osv-url", osv.url], TODAY) == 1
    assert "pip-audit did not finish" in capsys.readouterr().err


def test_the_exceptions_of_this_checkout_can_be_read():
    module = load()
    assert module.main(["--osv-url", f"http://127.0.0.1:{free_port()}/"]) == 0, "an exception has ended: make audit"
