"""Texts that tell tokenizers apart: scripts, code, numbers, runs of white space, marks and mixtures."""

from __future__ import annotations

import random
from collections.abc import Sequence

__all__ = ["hard_texts"]

_FIXED = (
    "",
    " ",
    "\n",
    "\t\t",
    "Hello, world!",
    " leading and trailing  ",
    "I've said it's what they'd do; we'll see, YOU'RE right, I'M SURE'S",
    "3.14159 x 10^23 = 1,234,567 (12%) 007 1a2b3c",
    "0 00 000 0000 00000 000000 0000000",
    "def f(x):\n    return {\n\t'a': x**2,  # note\n    }\n\n\nprint(f(3))\r\n",
    '<div class="a">&amp;</div>   <!-- c -->',
    "https://example.org/a?b=c&d=%20#e_f-g.h",
    "深圳市的天气怎么样？今天、明天和后天。「引号」《书名》——省略……",
    "日本語のテキスト、カタカナとひらがな。한국어 문장입니다.",
    "Привет, мир! Ωμέγα ελληνικά שלום עולם مرحبا بالعالم हिन्दी ไทย",
    "naïve café Straße ÅNGSTRÖM İstanbul ﬁ ﬂ",
    "🙂 👩‍👩‍👧‍👦 🇨🇳🇫🇷 👍🏽 ❤️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "a\u00a0b\u2003c\u3000d\u200be\ufefff",
    "﷽ ‱ № ℵ ∑ ∫ √ ∞ ≠ ≤ ⟨⟩ ⇒ ½ ² ₃ Ⅳ ① ٣ ๓ 五",
    "....!!!???,,,;;;:::---___***///\\\\\\|||~~~```'''\"\"\"",
    "tab\tnew\nline\r\ncarriage\rformfeed\x0cvertical\x0bnull\x01end",
    "CamelCaseWords snake_case_words kebab-case-words SCREAMING_CASE mixedUPPERlower",
    "   a    b     c      d       e        f",
    "\n\n\na\n\n b\n \nc \n d",
    "▁underlined ▁▁ Ġtext Ċ",
)

_PIECES = (
    *"aZ09 .,!?'\"()[]{}<>/\\|@#$%^&*-_=+~`:;\n\t\r",
    "  ", "   ", "\n\n", " \n", "\r\n", "'s", "'LL", "n't", "the", " The", "ing", "123", "4567", "中", "国人",
    "。", "，", "é", "ß", "я", "Щ", "ñ", "한", "の", "ア", "א", "ب", "हि", "🙂", "👍🏽", "\u200d", "\u00a0",
    "\u3000", "½", "²", "Ⅳ", "//", "==", "=>", "**", "foo", "Bar", "BAZ", "x1", "_y",
)  # fmt: skip


def hard_texts(count: int, marks: Sequence[str] = (), seed: int = 7) -> list[str]:
    """Return `count` texts; `marks` (special tokens) are strewn into some of them."""
    chance = random.Random(seed)
    texts = list(_FIXED)
    while len(texts) < count:
        parts = chance.choices(_PIECES, k=chance.randint(1, 24))
        if marks and chance.random() < 0.3:
            parts.insert(chance.randint(0, len(parts)), chance.choice(marks))
        texts.append("".join(parts))
    return texts[:count]
