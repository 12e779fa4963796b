"""tau2 tasks as a fast, exact environment. The only folder that imports tau2.

Importing it costs nothing: tau2's rules of a domain are imported when the
domain is loaded, litellm only for an LLM user or judge, torch never.
"""

import os

# litellm fetches a price list from the network when it is imported, unless
# told that the copy in its wheel will do.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
