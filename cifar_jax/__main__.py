"""The program: `python main.py`, `python -m cifar_jax` and, where the package is installed, `cifar-jax`."""

from cifar_jax.system import console, interruption, malloc, modules


def run() -> None:
    """Prepares this process for a run that nothing may disturb, then runs the command line."""
    interruption.hold()
    console.restart_in_utf8()
    malloc.restart_with_settings()
    console.never_fails()
    interruption.listen()
    modules.prefer_ours()
    from cifar_jax.cli import command  # slow: imports JAX

    command.run()


if __name__ == "__main__":
    run()
