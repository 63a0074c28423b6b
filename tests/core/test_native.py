import subprocess
import sys


def test_memory_is_hidden_from_other_processes() -> None:
    program = """
import ctypes
from app.core.native import hide_memory
hide_memory()
print(ctypes.CDLL(None).prctl(3))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "0\n"  # PR_GET_DUMPABLE: no memory, no environment, no core dump
