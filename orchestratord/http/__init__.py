"""The routes: parse, ask the runtime, render."""
