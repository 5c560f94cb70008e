"""The configuration `config init` writes: small, commented, ready to edit."""

STARTER_CONFIG = """\
# llama-orch: one file for both daemons. `llama-orch config schema` lists every key,
# `llama-orch config check` proves this file. Any key can be overridden by an environment
# variable: LLORCH_ORCHESTRATORD__PORT=8800. Secrets never stand here.

# Database, logs, token and run files; made with mode 0700.
state_dir: ~/.local/state/llama-orch

orchestratord: {host: 127.0.0.1, port: 8700}    # the task API
pool_managerd: {host: 127.0.0.1, port: 8701}    # starts and watches the engines

queue:
  capacity: 256              # tasks waiting per pool; one more is refused with 429

# What one agent's session may use; `llama-orch sessions set` gives one limits of its own.
sessions:
  ttl_ms: 600000             # idle time to its end
  max_turns: 8               # tasks it may run
  budget_tokens: null        # prompt and output tokens of all its tasks; null = no bound

# A pool is one model and the engine processes (replicas) that serve it.
pools:
  - id: chat
    engine: llamacpp
    model:
      id: my-model                         # the name tasks ask for
      ref: "file:~/models/my-model.gguf"   # put your own GGUF file here
    ctx: 4096                # prompt + output of one task, tokens
    slots: 1                 # tasks a replica serves at once
    replicas:
      - devices: []          # [] = the CPU
    provisioning: {mode: embedded}         # llama.cpp from the installed wheel, CPU only

    # With NVIDIA cards and a llama-server built for them, one replica on each:
    # replicas:
    #   - devices: [0]
    #   - devices: [1]
    # provisioning: {mode: binary, path: llama-server}
    # engine_args: ["--flash-attn", "on"]

    # Embeddings, reranking, vLLM, TGI, Triton, a server that runs already: a pool of each stands in
    # examples/engines.yaml.
"""
