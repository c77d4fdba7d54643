"""The program, started from a checkout: trains, evaluates, predicts, exports and compares.

`python main.py --help` explains the flags, which cifar_jax/cli/command.py defines.
"""

from cifar_jax.__main__ import run

if __name__ == "__main__":
    run()
