from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.bench.conditions import conditions, snapshot
from edgekit.bench.pinning import choose_cores, pinned
from edgekit.runtime.errors import InputError


def fake_system(root: Path, *, governor: str, throttled: int, load: float, stolen: int) -> Path:
    cpu = "sys/devices/system/cpu"
    for number in (0, 1):
        (root / f"{cpu}/cpu{number}/cpufreq").mkdir(parents=True)
        (root / f"{cpu}/cpu{number}/cpufreq/scaling_governor").write_text(f"{governor}\n")
        (root / f"{cpu}/cpu{number}/thermal_throttle").mkdir()
        (root / f"{cpu}/cpu{number}/thermal_throttle/core_throttle_count").write_text(
            f"{throttled}\n"
        )
    (root / f"{cpu}/intel_pstate").mkdir()
    (root / f"{cpu}/intel_pstate/no_turbo").write_text("0\n")
    (root / "proc").mkdir()
    (root / "proc/loadavg").write_text(f"{load} 0.5 0.4 1/123 4567\n")
    (root / "proc/stat").write_text(f"cpu  100 0 0 {900 - stolen} 0 0 0 {stolen} 0 0\ncpu0 1 2\n")
    return root


def test_what_the_system_tells_is_noted(tmp_path: Path) -> None:
    before = snapshot(
        fake_system(tmp_path / "a", governor="powersave", throttled=3, load=1.9, stolen=0)
    )
    later = fake_system(tmp_path / "b", governor="powersave", throttled=5, load=1.9, stolen=0)
    (later / "proc/stat").write_text("cpu  200 0 0 1700 0 0 0 100 0 0\n")
    found = conditions(before, snapshot(later), cores=2)
    assert (found.governors, found.turbo, found.throttle_events) == (("powersave",), True, 4)
    assert found.steal_share == pytest.approx(0.1)
    assert [note.partition(":")[0] for note in found.notes] == [
        "the frequency governor is powersave",
        "the processor was throttled during the run",
        "the machine was busy",
        "the hypervisor took 10.0% of the processor time during the run",
    ]
    assert list(found.to_json()["governors"]) == ["powersave"]


def test_a_quiet_machine_has_no_notes(tmp_path: Path) -> None:
    quiet = snapshot(fake_system(tmp_path, governor="performance", throttled=3, load=0.1, stolen=0))
    found = conditions(quiet, quiet, cores=2)
    assert found.notes == ()
    assert (found.throttle_events, found.steal_share) == (0, 0.0)


def test_what_a_system_does_not_tell_is_none(tmp_path: Path) -> None:
    found = conditions(snapshot(tmp_path), snapshot(tmp_path), cores=2)
    assert (found.governors, found.turbo, found.throttle_events) == ((), None, None)
    assert (found.load_average, found.steal_share, found.notes) == (None, None, ())


def test_a_raspberry_pi_s_flags_are_read(tmp_path: Path) -> None:
    flags = tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled"
    flags.parent.mkdir(parents=True)

    def notes(before: str, after: str) -> tuple[str, ...]:
        flags.write_text(f"{before}\n")
        first = snapshot(tmp_path)
        flags.write_text(f"{after}\n")
        return conditions(first, snapshot(tmp_path), 4).notes

    for before, after in (("50005", "50005"), ("0", "50000"), ("10000", "50000")):
        (note,) = notes(before, after)
        assert note.startswith("the processor was throttled")
    assert notes("50000", "50000") == ()  # at some time before the run


def test_this_machine_can_be_read() -> None:
    assert conditions(snapshot(), snapshot(), 1).to_json()["notes"] is not None


def test_cores_of_different_physical_cores_are_chosen_first(tmp_path: Path) -> None:
    for core, siblings in enumerate(["0,4", "1,5", "2,6", "3,7"] * 2):
        (tmp_path / f"cpu{core}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{core}/topology/thread_siblings_list").write_text(siblings + "\n")
    everything = set(range(8))
    assert choose_cores(everything, 2, tmp_path) == (6, 7)
    assert choose_cores(everything, 4, tmp_path) == (4, 5, 6, 7)
    assert choose_cores({3, 7, 1}, 2, tmp_path) == (1, 7)
    assert choose_cores({3, 7, 1}, 3, tmp_path) == (1, 3, 7)
    with pytest.raises(InputError, match="this process may use 3"):
        choose_cores({3, 7, 1}, 4, tmp_path)


def test_a_system_without_pinning_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_setaffinity", raising=False)
    with pytest.raises(InputError, match="--pin"), pinned(1):
        raise AssertionError
