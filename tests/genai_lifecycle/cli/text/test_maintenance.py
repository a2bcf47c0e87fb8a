"""What a person reads of relocate, doctor and clean."""

from __future__ import annotations

from genai_lifecycle.cli.text.maintenance import of_cleaning, of_findings, of_relocation
from genai_lifecycle.stages.clean import Cleaning, Disposal
from genai_lifecycle.stages.doctor import Finding
from genai_lifecycle.stages.relocate import Relocation
from genai_lifecycle.store.maintenance.locations import MovedColumn


def test_the_worst_comes_last_with_its_next_step():
    findings = [Finding("disk", "problem", "full", "Free some."), Finding("python", "ok", "3.11")]
    assert of_findings(findings).splitlines() == [
        "ok       python  3.11",
        "problem  disk    full",
        "                 -> Free some.",
        "",
        "1 ok, 0 warning, 1 problem",
    ]


def test_a_look_says_how_to_do_it_and_a_deed_where_the_copy_is():
    columns = (MovedColumn("runs.artifact_uri", 7, "/a/x", "/b/x"),)
    assert "--apply" in of_relocation(Relocation("/a", "/b", columns, 0, None, ()))
    done = of_relocation(Relocation("/a", "/b", columns, 7, "/db.backup", ()))
    assert "7 addresses were rewritten" in done and "/db.backup" in done and "--apply" not in done
    assert "Nothing to do" in of_relocation(Relocation("/a", "/b", (), 0, None, ()))


def test_many_disposals_are_counted():
    disposals = tuple(Disposal("run", f"run-{number}", "old", 1_000_000) for number in range(30))
    shown = of_cleaning(Cleaning(disposals, 0, "Stays: everything else."), applied=False)
    assert "runs: 30, 30.0 MB" in shown and "and 10 more" in shown and "--apply" in shown
    done = of_cleaning(Cleaning(disposals, 29, "Stays: everything else.", "It is in the trash."), applied=True)
    assert "1 of them got an alias meanwhile" in done and done.endswith("It is in the trash.")
    assert "nothing to remove" in of_cleaning(Cleaning((), 0, ""), applied=True)
