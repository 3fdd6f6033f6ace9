"""`python -m flexidit_jax` is `python -m flexidit_jax.main`."""

from flexidit_jax.main import start

if __name__ == "__main__":
    start()
