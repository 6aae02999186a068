"""Makes the virtual environment and installs the exact versions; does nothing when it is current.

    python tools/install.py [--venv DIR] [--newest] [--torch-index URL]

Runs on the standard library alone, under whatever Python is found, so that it can say which one
is needed. A stamp in the environment holds a hash of what was asked for: when that is unchanged,
a second run ends at once.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
LAB_SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}
}


def main():
    options = read_options()
    if sys.version_info < OLDEST:
        found = ".".join(str(part) for part in sys.version_info[:3])
        stop(
            f"Found Python {found} ({sys.executable}).",
            "The course needs Python 3.11, 3.12 or 3.13.",
            "Install one from https://www.python.org/downloads/ and name it:",
            "  make lab PYTHON=python3.12",
        )
    venv = Path(options.venv)
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = venv / "installed-for.txt"
    wanted = fingerprint(options)
    if python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        print(f"[1/1] {venv} is up to date.")
        return
    make_venv(venv, python)
    install(python, options)
    settings = venv / "etc/jupyter/labconfig/default_setting_overrides.json"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps(LAB_SETTINGS, indent=2), encoding="utf-8")
    stamp.write_text(wanted, encoding="utf-8")


def read_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", default=".venv", help="where the environment lives")
    parser.add_argument("--newest", action="store_true", help="newest releases, not the lock")
    parser.add_argument("--torch-index", default="", help="package index to take torch from")
    return parser.parse_args()


def fingerprint(options):
    """Hash of everything that decides what the environment holds."""
    parts = [str(ROOT), options.torch_index, str(options.newest), sys.version.split()[0]]
    files = [ROOT / "pyproject.toml", ROOT / "requirements.lock"]
    parts += [path.read_text(encoding="utf-8") for path in files]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def make_venv(venv, python):
    print(f"[1/3] Environment in {venv}, Python {sys.version.split()[0]}", flush=True)
    works = (
        python.exists()
        and subprocess.run(
            [str(python), "-m", "pip", "--version"], capture_output=True, check=False
        ).returncode
        == 0
    )
    if works and interpreter_version(python) == sys.version_info[:2]:
        return
    if venv.exists() and any(venv.iterdir()) and not (venv / "pyvenv.cfg").exists():
        stop(f"{venv} holds something else than a Python environment.", "Name another: VENV=...")
    if subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=False).returncode:
        stop(
            f"{sys.executable} could not make the environment {venv}.",
            "On Debian and Ubuntu its venv module is a package: sudo apt install python3-venv",
            "Or name another Python: make lab PYTHON=python3.12",
        )


def interpreter_version(python):
    code = "import sys; print(*sys.version_info[:2])"
    answer = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return tuple(int(part) for part in answer.stdout.split())


def install(python, options):
    lock = ROOT / "requirements.lock"
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    print("[2/3] Packages (a first time takes a few minutes)", flush=True)
    if options.torch_index:
        torch = "torch" if options.newest else locked_version(lock, "torch")
        run([*pip, "--no-deps", "--index-url", options.torch_index, torch], options)
    if options.newest:
        newest = ["--upgrade", "--upgrade-strategy", "eager", "setuptools", "--editable"]
        run([*pip, *newest, f"{ROOT}[learn,test]"], options)
        return
    run([*pip, "--requirement", str(lock)], options)
    print("[3/3] tfm_lib itself", flush=True)
    run([*pip, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], options)


def locked_version(lock, name):
    lines = lock.read_text(encoding="utf-8").splitlines()
    return next(line.split(";")[0].strip() for line in lines if line.startswith(f"{name}=="))


def run(command, options):
    if subprocess.run(command, check=False).returncode == 0:
        return
    free = shutil.disk_usage(ROOT).free / 2**30
    lines = [
        "pip could not install the packages; its own message is above. Usual causes:",
        f"- Disk: {free:.1f} GB are free here; 2 GB are needed with a CPU build of torch,",
        "  8 GB with the CUDA build that Linux gets by default.",
        "- Network: the package index did not answer. Run the same command again, pip resumes.",
    ]
    if not options.torch_index:
        lines += [
            "- Download too large: take the CPU build of torch alone:",
            "  make lab TORCH_INDEX=https://download.pytorch.org/whl/cpu",
        ]
    if sys.platform == "darwin":
        lines.append(
            "- Mac: torch has wheels for Apple silicon with macOS 14 or newer, none for Intel Macs."
        )
    stop(*lines)


def stop(*lines):
    print("", *lines, sep="\n", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
