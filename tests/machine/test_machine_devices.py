"""What of a machine a run can train on: machines described, and machines seen through a false nvidia-smi."""

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.config.installed import TorchBuild
from simpletune.machine import gpus, hardware
from simpletune.machine.devices import GIB, Device, compute_precision, devices, kernels, usable_memory, visible
from simpletune.machine.gpus import AMD, NVIDIA, Gpu, amd_gpus, cards_on_bus, nvidia_gpus, with_slices
from simpletune.machine.hardware import Machine, look, wsl_version

CUDA13 = TorchBuild("2.13.0+cu130", "13.0", None)
CUDA126 = TorchBuild("2.13.0+cu126", "12.6", None)
CUDA128 = TorchBuild("2.11.0+cu128", "12.8", None)
NO_CUDA = TorchBuild("2.13.0+cpu", None, None)
ROCM = TorchBuild("2.13.0+rocm7.2", None, "7.2")

RTX4090 = Gpu(0, "NVIDIA GeForce RTX 4090", 24 * GIB, 23 * GIB, "580.65.06", (8, 9), "GPU-aaaa")
RTX2080 = Gpu(1, "NVIDIA GeForce RTX 2080", 8 * GIB, 7 * GIB, "580.65.06", (7, 5), "GPU-bbbb")
PLAIN = Machine((), 32 * GIB, 30 * GIB, 100 * GIB, 8, CUDA13)


def of(*cards, torch=CUDA13, **facts):
    return devices(replace(PLAIN, gpus=cards, torch=torch, **facts))


def test_a_card_that_can_be_used():
    card, processor = of(RTX4090)
    assert (card.kind, card.usable, card.why_not, card.next_step) == ("cuda", True, None, None)
    assert (card.memory_bytes, card.free_bytes, card.capability) == (24 * GIB, 23 * GIB, (8, 9))
    assert (processor.kind, processor.usable, processor.memory_bytes) == ("cpu", True, 32 * GIB)


OBSTACLES = {
    "no torch": (RTX4090, {"torch": None}, "not installed", "pip install torch"),
    "torch without CUDA": (RTX4090, {"torch": NO_CUDA}, "has no CUDA", "pip install --force-reinstall torch==2.13.0"),
    "torch without CUDA on Windows": (RTX4090, {"torch": NO_CUDA, "system": "Windows"}, "has no CUDA", "for Windows"),
    "torch for AMD": (RTX4090, {"torch": ROCM}, "AMD", "torch==2.13.0"),
    "an old driver": (replace(RTX4090, driver="550.54"), {}, "550.54 is too old for this PyTorch's CUDA 13.0", "580"),
    "a very old driver": (replace(RTX4090, driver="470.9"), {"torch": CUDA126}, "too old", "525"),
    "an old driver on Windows": (replace(RTX4090, driver="526.1"), {"torch": CUDA126, "system": "Windows"}, "o", "528"),
    "an old driver under WSL": (replace(RTX4090, driver="550.1"), {"wsl": 2}, "too old", "in Windows to 580"),
    "an old driver library": (RTX4090, {"driver_cuda": (12, 8)}, "too old", "580 or newer"),
    "Pascal": (replace(RTX2080, compute_capability=(6, 1)), {}, "no kernels for compute capability 6.1", "CUDA 12.6"),
    "Volta": (replace(RTX2080, compute_capability=(7, 0)), {"torch": CUDA128}, "no kernels", "CUDA 12.6"),
    "Kepler": (replace(RTX2080, compute_capability=(3, 7)), {"torch": CUDA126}, "no kernels", "no PyTorch"),
    "Blackwell": (replace(RTX4090, compute_capability=(12, 0)), {"torch": CUDA126}, "no kernels", "force-reinstall"),
    "hidden": (RTX4090, {"visible_devices": "-1"}, 'CUDA_VISIBLE_DEVICES="-1" hides it', "unset"),
    "hidden by nothing": (RTX4090, {"visible_devices": ""}, 'CUDA_VISIBLE_DEVICES="" hides it', "unset"),
    "hidden on Windows": (RTX4090, {"visible_devices": "", "system": "Windows"}, "hides it", "Remove-Item"),
    "WSL 1": (RTX4090, {"wsl": 1}, "WSL 1", "wsl --set-version"),
    "MIG without an instance": (replace(RTX4090, slice=""), {}, "MIG mode", "nvidia-smi mig"),
    "an AMD card": (replace(RTX4090, vendor=AMD), {}, "AMD card", "ROCm build"),
}


@pytest.mark.parametrize(("card", "facts", "why_not", "next_step"), OBSTACLES.values(), ids=OBSTACLES.keys())
def test_what_stands_in_the_way_of_a_card(card, facts, why_not, next_step):
    device, processor = of(card, **facts)
    assert not device.usable
    assert why_not in device.why_not
    assert next_step in device.next_step
    assert processor.kind == "cpu"


@pytest.mark.parametrize(
    ("card", "facts"),
    [
        (replace(RTX4090, driver="525.60"), {"torch": CUDA126}),
        (replace(RTX4090, driver="550.1"), {"driver_cuda": (13, 0)}),  # a compatibility package lies over the driver
        (replace(RTX4090, driver="unknown"), {}),
        (replace(RTX2080, compute_capability=(6, 1)), {"torch": CUDA126}),
        (replace(RTX2080, compute_capability=(9, 0)), {"torch": CUDA126}),
        (RTX2080, {}),
        (replace(RTX4090, compute_capability=(12, 1)), {}),
        (replace(RTX4090, compute_capability=None), {}),
        (RTX4090, {"visible_devices": "0"}),
        (RTX4090, {"visible_devices": "GPU-a"}),
        (RTX4090, {"wsl": 2}),
        (replace(RTX4090, vendor=AMD), {"torch": ROCM}),
    ],
)
def test_what_does_not(card, facts):
    assert of(card, **facts)[0].why_not is None


def test_the_card_a_run_takes_is_the_first():
    """CUDA counts the fastest first unless it is told otherwise; nvidia-smi counts by slot."""
    slow, fast = replace(RTX2080, index=0), replace(RTX4090, index=1)
    assert of(slow, fast)[0].name == RTX4090.name
    assert of(slow, fast, device_order="PCI_BUS_ID")[0].name == RTX2080.name
    chosen, hidden, _ = of(slow, fast, visible_devices="1")
    assert (chosen.name, hidden.usable) == (RTX2080.name, False)


def test_a_card_that_can_t_be_used_stands_behind_one_that_can():
    old = replace(RTX4090, index=0, name="Old", compute_capability=(6, 1), memory_total=99 * GIB)
    assert [device.usable for device in of(old, RTX2080)] == [True, False, True]


@pytest.mark.parametrize(
    ("value", "seen"),
    [("0,1", "ab"), ("1,0", "ba"), ("1,1", "b"), ("1,-1,0", "b"), ("7", ""), ("", ""), ("GPU-b", "b"), ("GPU-", ""),
     (" 1 ", "b"), ("x", ""), ("0,x,1", "a")],
)  # fmt: skip
def test_cuda_visible_devices_is_read_as_cuda_reads_it(value, seen):
    assert visible(value, [RTX4090, RTX2080]) == [{"a": RTX4090, "b": RTX2080}[name] for name in seen]


def test_unified_memory_is_main_memory():
    spark = replace(RTX4090, name="NVIDIA GB10", memory_total=None, memory_free=None, compute_capability=(12, 1))
    card, _ = of(spark, architecture="aarch64")
    assert (card.memory_bytes, card.free_bytes, card.usable) == (32 * GIB, 30 * GIB, True)
    assert of(spark)[0].memory_bytes is None  # elsewhere a missing figure is a missing figure


LISTING = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef)
  MIG 1c.1g.5gb   Device  1: (UUID: MIG-cba663e8)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-1)
"""


def test_mig_instances_take_the_place_of_their_card():
    a100 = Gpu(0, "NVIDIA A100-SXM4-40GB", 40 * GIB, 40 * GIB, "580.1", (8, 0), "GPU-5d5ba0d6", slice="")
    first, second = with_slices([a100], LISTING)
    assert (first.slice, first.memory_total, first.uuid) == ("3g.20gb", 20 * GIB, "MIG-c6d4f1ef")
    assert (second.slice, second.memory_total) == ("1c.1g.5gb", 5 * GIB)
    used, other, _ = of(first, second)
    assert (used.name, used.usable) == ("NVIDIA A100-SXM4-40GB (3g.20gb)", True)
    assert "CUDA_VISIBLE_DEVICES=MIG-cba663e8" in other.next_step
    assert of(first, second, visible_devices="MIG-cba663e8")[0].memory_bytes == 5 * GIB
    (without,) = with_slices([replace(a100, index=1)], LISTING)
    assert (without.slice, without.memory_total) == ("", None)


@pytest.mark.parametrize(
    ("facts", "why_not", "next_step"),
    [
        ({"gpu_problem": "Failed to initialize NVML: Driver/library version mismatch"}, "updated", "restart"),
        ({"gpu_problem": "NVIDIA-SMI has failed"}, "NVIDIA-SMI has failed", "driver again"),
        ({"cards": frozenset({NVIDIA})}, "isn't installed", "install the NVIDIA driver"),
        ({"cards": frozenset({NVIDIA}), "in_container": True}, "container", "--gpus all"),
    ],
)
def test_a_card_whose_driver_is_silent_is_told_of(facts, why_not, next_step):
    card, processor = of(**facts)
    assert (card.kind, card.usable) == ("cuda", False)
    assert why_not in card.why_not
    assert next_step in card.next_step
    assert processor.usable


def test_a_mac():
    mac = replace(PLAIN, torch=TorchBuild("2.13.0", None, None), system="Darwin", architecture="arm64",
                  release="15.2", processor="Apple M2 Pro")  # fmt: skip
    apple, processor = devices(mac)
    assert (apple.kind, apple.name, apple.usable, apple.memory_bytes) == ("mps", "Apple M2 Pro GPU", True, 32 * GIB)
    assert compute_precision(apple)[0] == "bf16"
    assert processor.kind == "cpu"
    assert "macOS 14" in devices(replace(mac, release="13.6.1"))[0].why_not
    assert devices(replace(mac, torch=None))[0].next_step == "pip install torch"
    assert [device.kind for device in devices(replace(mac, architecture="x86_64"))] == ["cpu"]


@pytest.mark.parametrize(
    ("kind", "capability", "value"),
    [("cuda", (8, 0), "bf16"), ("cuda", (12, 0), "bf16"), ("cuda", (7, 5), "fp16"), ("cuda", None, "bf16"),
     ("cpu", None, "no"), ("mps", None, "bf16")],
)  # fmt: skip
def test_the_compute_precision_that_suits(kind, capability, value):
    device = Device(kind, "x", 8 * GIB, None, capability)
    suited, reason = compute_precision(device)
    assert suited == value
    assert reason


def test_kernels_are_what_the_quantized_layer_runs():
    card = of(RTX4090)[0]
    assert "bf16" in kernels(card, "int8-quanto")
    assert "fp16" in kernels(of(RTX2080)[0], "int4-quanto")
    assert "fp16" in kernels(card, "int8-quanto", "fp16")
    assert "int8" not in kernels(card, "no_change")
    assert "fp32" in kernels(of()[0], "int2-quanto")
    assert "float8" in kernels(Device("mps", "x", None, None, None), "fp8-quanto")


@given(st.integers(0, 200), st.sampled_from(["cuda", "mps", "cpu"]))
@settings(max_examples=40, deadline=None)
def test_a_run_can_count_on_less_than_there_is(gibibytes, kind):
    size = gibibytes * GIB
    assert 0 <= usable_memory(size, kind) <= size
    assert usable_memory(size + GIB, kind) >= usable_memory(size, kind)


@given(
    st.lists(st.builds(Gpu, st.integers(0, 3), st.text(max_size=5), st.none() | st.integers(0, 2**40), st.none(),
                       st.text(max_size=5), st.none() | st.tuples(st.integers(0, 20), st.integers(0, 9)),
                       st.text(max_size=5), st.sampled_from([None, "", "1g.5gb"]), st.sampled_from([NVIDIA, AMD])),
             max_size=4),
    st.sampled_from([None, CUDA13, CUDA126, NO_CUDA, ROCM, TorchBuild("odd", "odd", None)]),
    st.none() | st.text(max_size=5),
    st.sampled_from(["Linux", "Windows", "Darwin"]),
    st.none() | st.integers(1, 2),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_every_machine_has_an_answer(cards, torch, mask, system, wsl):
    found = of(*cards, torch=torch, visible_devices=mask, system=system, wsl=wsl, architecture="arm64")
    assert found[-1].kind == "cpu"
    assert all(device.usable == (device.why_not is None) for device in found)
    assert all(device.next_step for device in found if not device.usable)
    usable = [device.usable for device in found[:-1]]
    assert usable == sorted(usable, reverse=True)


SMI = """#!/bin/sh
case "$*" in
*uuid*) echo "0, NVIDIA H100 80GB HBM3, 81559, 81079, 580.95.05, 9.0, GPU-1d2, Disabled" ;;
esac
"""


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Put a false nvidia-smi on the search path."""
    if os.name == "nt":
        pytest.skip("a shell script")

    def write(script):
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(script)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return write


def test_a_machine_is_seen_through_nvidia_smi(smi, tmp_path, monkeypatch):
    smi(SMI)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(hardware, "torch_build", lambda: CUDA13)
    monkeypatch.setattr(hardware, "driver_cuda", lambda: None)
    machine = look(tmp_path)
    card = devices(machine)[0]
    assert (card.name, card.memory_bytes, card.capability) == ("NVIDIA H100 80GB HBM3", 81559 << 20, (9, 0))
    assert (card.usable, machine.visible_devices, machine.gpu_problem) == (True, "0", None)


def test_an_older_nvidia_smi_that_refuses_newer_columns(smi):
    smi('#!/bin/sh\ncase "$*" in *uuid*) echo "Field is not valid" >&2; exit 2;; esac\n'
        'echo "0, Tesla T4, 15360, 15000, 535.1, 7.5"\n')  # fmt: skip
    assert [gpu.compute_capability for gpu in nvidia_gpus().gpus] == [(7, 5)]


def test_a_driver_s_complaint_is_passed_on(smi):
    smi("#!/bin/sh\necho; echo 'NVIDIA-SMI has failed because it is sad'; exit 9\n")
    assert nvidia_gpus().problem == "NVIDIA-SMI has failed because it is sad"


def test_mig_is_asked_for_its_instances(smi):
    smi(f"""#!/bin/sh
if [ "$1" = -L ]; then printf '%s' '{LISTING}'; exit; fi
echo "0, NVIDIA A100-SXM4-40GB, 40960, 40000, 580.1, 8.0, GPU-5d5ba0d6, Enabled"
""")
    assert [gpu.slice for gpu in nvidia_gpus().gpus] == ["3g.20gb", "1c.1g.5gb"]


def test_a_driver_that_hangs_is_left(smi, monkeypatch):
    monkeypatch.setattr(gpus, "_TIMEOUT_SECONDS", 0.2)
    smi("#!/bin/sh\nexec sleep 20\n")
    assert "no answer" in nvidia_gpus().problem


def test_cards_in_linux_s_own_files(tmp_path):
    def device(name, **files):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for file, text in files.items():
            (folder / file).write_text(text)

    device("pci/a", vendor="0x10de\n", **{"class": "0x030000\n"})
    device("pci/b", vendor="0x1002\n", **{"class": "0x040300\n"})  # a card's sound
    device("drm/card0/device", vendor="0x8086\n")
    device("drm/card1/device", mem_info_vram_total="17163091968\n", mem_info_vram_used="1000\n")
    assert cards_on_bus(tmp_path / "pci") == {NVIDIA}
    (card,) = amd_gpus(tmp_path / "drm")
    assert (card.name, card.memory_total, card.memory_free) == ("AMD GPU", 17163091968, 17163090968)
    assert cards_on_bus(tmp_path / "nowhere") == set()


@pytest.mark.parametrize(
    ("kernel", "version"),
    [
        ("6.6.87.2-microsoft-standard-WSL2", 2),
        ("4.4.0-19041-Microsoft", 1),
        ("6.8.0-45-generic", None),
        ("24.1.0", None),
    ],
)
def test_windows_beneath_linux(kernel, version):
    assert wsl_version(kernel) == version


def test_a_container_s_limits_count(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    free = hardware.memory()[1]
    (tmp_path / "memory.max").write_text("max\n")
    assert hardware.memory()[0] > GIB // 2
    (tmp_path / "memory.max").write_text(f"{GIB // 2}\n")
    (tmp_path / "memory.current").write_text(f"{GIB // 4}\n")
    assert hardware.memory() == (GIB // 2, min(GIB // 4, free or GIB))
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {GIB // 8}\n")
    assert hardware.memory()[1] == GIB // 4 + GIB // 8
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert hardware.usable_cpus() == 1


def test_memory_where_linux_s_files_are_missing(monkeypatch):
    monkeypatch.setattr(hardware, "_MEMINFO", Path("/nowhere/meminfo"))
    pytest.importorskip("psutil")
    total, available = hardware.memory()
    assert 0 < available <= total


@pytest.mark.skipif(sys.platform != "linux", reason="other systems are asked through psutil")
def test_looking_imports_nothing_heavy():
    code = """
import sys
from pathlib import Path
from simpletune.machine.devices import devices
from simpletune.machine.hardware import look
devices(look(Path(".")))
print(sorted({"torch", "psutil", "huggingface_hub", "numpy", "PIL", "jsonschema"} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
