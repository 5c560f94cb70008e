"""The HTTP and process manners both daemons promise, and nothing else.

Imports go down only: `daemon` -> `serve`, `app` -> `middleware`, `routes` ->
`json_body`, `envelope`, `drain`, `run_files`, `settings` -> `config_source`,
`api_token`.
"""
