"""tau2 tasks as a fast, exact environment. The only folder that imports tau2.

Importing it imports no part of tau2: the rules of a domain come with the
domain, litellm only with an LLM user or judge, torch never.
"""

import os

from loguru import logger

# litellm fetches a price list from the network when it is imported, unless
# told that the copy in its wheel will do.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

logger.disable("tau2")  # it logs each message; other sinks stay as they are
