"""Generated from proto/asrlife/v1/asrlife.proto; `tests/server/test_stubs.py` names the command."""
