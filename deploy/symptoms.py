"""What the replies of a server that is up tell about the engine behind it: that it sleeps, or is dead.

Does not know rungs.
"""

from __future__ import annotations

from deploy.client import Client, Reply

__all__ = ["BROKEN_OFF", "DEAD_BEHIND", "way_to_wake", "why_no_answer"]

BROKEN_OFF = ("error", "abort")
"""finish_reason of what an engine gave up, under HTTP 200 (vLLM, LMDeploy)."""
DEAD_BEHIND = "The API lives, the engine behind it is dead or hangs. Its log should say why; start it again."


def way_to_wake(client: Client, health: Reply) -> str | None:
    """Return the path that wakes a server whose GET /health is 200 though its engine sleeps, None if awake.

    LMDeploy says so in the body of /health, vLLM at /is_sleeping (in its development mode, the only one in
    which it can be sent to sleep through HTTP); the body of its /health is empty.
    """
    body = health.json
    if isinstance(body, dict):
        return "/wakeup" if body.get("status") == "sleeping" else None
    if health.text.strip():
        return None
    found = client.get("/is_sleeping").json
    return "/wake_up" if isinstance(found, dict) and found.get("is_sleeping") is True else None


def why_no_answer(reply: Reply) -> str:
    """Return what to try when a chat request got no answer."""
    refused = reply.status in (400, 422) or (reply.status == 500 and "template" in reply.words().lower())
    if refused:
        return "A server without a (valid) chat template refuses every chat; `portside inspect MODEL`."
    if reply.status == 503 and "sleeping" in reply.words().lower():
        return "The engine sleeps. Wake it with POST /wakeup, or start it again."
    if reply.status == 0 or reply.status >= 500:
        return DEAD_BEHIND
    return "Its log should say more."
