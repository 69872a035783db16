"""Ready-to-paste code for a server that runs. Does not know whether it does."""

from __future__ import annotations

from deploy.engines.base import ServePlan

__all__ = ["client_snippet"]


def client_snippet(plan: ServePlan) -> str:
    """Return a Python program that asks the server of `plan` one question with the official client.

    A key that the server wants is read from PORTSIDE_API_KEY, never written down.
    """
    key = 'os.environ["PORTSIDE_API_KEY"]' if plan.api_key else '"none"'
    imports = "import os\n\nfrom openai import OpenAI" if plan.api_key else "from openai import OpenAI"
    return f"""{imports}

client = OpenAI(base_url="{plan.url}/v1", api_key={key})
reply = client.chat.completions.create(
    model={plan.name!r},
    messages=[{{"role": "user", "content": "Hello!"}}],
)
print(reply.choices[0].message.content)"""
