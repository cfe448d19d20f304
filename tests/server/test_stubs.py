from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUBS = ROOT / "asrlife" / "v1"
COMMAND = ["-m", "grpc_tools.protoc", "-Iproto", "--python_out=OUT", "--grpc_python_out=OUT", "--mypy_out=quiet:OUT",
           "--mypy_grpc_out=quiet:OUT", "proto/asrlife/v1/asrlife.proto"]  # fmt: skip
MYPY_PROTOBUF = "5.1.0"  # it does not write its version into what it writes


def test_the_committed_stubs_are_what_the_proto_file_gives(tmp_path):
    made_by = re.search(r"GRPC_GENERATED_VERSION = '(.+)'", (STUBS / "asrlife_pb2_grpc.py").read_text()).group(1)
    for package, wanted in (("grpcio-tools", made_by), ("mypy-protobuf", MYPY_PROTOBUF)):
        try:
            if version(package) != wanted:
                pytest.skip(f"{package} {version(package)} is here, the stubs were made with {wanted}")
        except PackageNotFoundError:
            pytest.skip(f"{package} is not here")
    path = {"PATH": str(Path(sys.executable).parent)}
    command = [sys.executable, *(part.replace("OUT", str(tmp_path)) for part in COMMAND)]
    subprocess.run(command, cwd=ROOT, env=path, check=True, capture_output=True)
    made = {path.name: path.read_bytes() for path in (tmp_path / "asrlife" / "v1").iterdir()}
    committed = {path.name: path.read_bytes() for path in STUBS.glob("asrlife_pb2*") if path.is_file()}
    assert made == committed, "run the command above with OUT=. in the project's folder"
