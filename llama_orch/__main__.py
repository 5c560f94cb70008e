"""`python -m llama_orch` is `llama-orch`."""

from llama_orch.main import main

if __name__ == "__main__":
    main()
