"""Equal requests give equal bytes: on real llama.cpp, under load and after restarts."""
