"""Continual reinforcement learning of tool-using LLM agents in JAX."""

__version__ = "0.1.0"
