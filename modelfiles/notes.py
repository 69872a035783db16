"""What a Modelfile says in its comments: which template which Ollama uses, and what each is worth.

Ollama before 0.30 renders with the TEMPLATE, later versions with the GGUF's own Jinja where that mentions
what the TEMPLATE does not.
"""

from __future__ import annotations

from chat_templates import DialectProof, Proof, ollama_prefers_gguf

__all__ = ["notes"]


def notes(proof: Proof) -> tuple[str, ...]:
    """Return one sentence or two for each of the two ways to a prompt; none where one was not proven."""
    template, gguf = proof.dialects.get("ollama"), proof.dialects.get("gguf")
    if template is None or gguf is None or template.text is None or gguf.text is None:
        return ()
    richer = ollama_prefers_gguf(template.text, gguf.text)
    if not richer:
        return (
            f"Every version of Ollama renders prompts with the TEMPLATE below. It is {_worth(template)}.",
        )
    return (
        f"Ollama before 0.30 renders prompts with the TEMPLATE below. It is {_worth(template)}.",
        f"Ollama 0.30 and later use the chat template inside the GGUF file instead, because it mentions "
        f"{' and '.join(richer)} and the TEMPLATE does not. It is {_worth(gguf)}.",
    )


def _worth(dialect: DialectProof) -> str:
    found = {
        status: [name for name, result in dialect.classes.items() if result.status == status]
        for status in ("exact", "refused")
    }
    refused = f"NOT exact for: {', '.join(found['refused'])} (see proof.json)" if found["refused"] else ""
    exact = f"proven exact for: {', '.join(found['exact'])}" if found["exact"] else ""
    return "; ".join(text for text in (exact, refused) if text)
