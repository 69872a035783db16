"""The Go template interpreter against Go's own text/template."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_templates.dialects.gotemplate import GoTemplate, Limits
from chat_templates.dialects.gotemplate_values import is_print, quote, to_bytes
from errors import TemplateError
from tests.chat_templates.go_oracle.oracle import go_oracle

DATA: dict[str, Any] = {
    "Name": "Zoë <&> \"q\" 'a'",
    "Empty": "",
    "Lines": " two\nlines\t",
    "N": 3,
    "Zero": 0,
    "Big": 123456789012,
    "F": 2.5,
    "Whole": 1e6,
    "Huge": 1.5e300,
    "Tiny": 2.5e-7,
    "Yes": True,
    "No": False,
    "Null": None,
    "L": ["a", "b", "c"],
    "M": {"k": "v", "a": {"b": [1, 2.0, None, True, "x"]}, "nil": None},
    "Mixed": [1, "s", None, {"x": 1}, [2], False, 1e21],
    "None": [],
}

HAND_WRITTEN = [
    "plain",
    "",
    "{{ .Name }}",
    "{{.Name}}|{{ .Missing }}|{{ .Null }}|{{.M.nope}}|{{.M.k}}|{{.M}}|{{.L}}|{{.Mixed}}",
    "{{ .M.nil }}|{{ .M.a.b }}",
    "{{ .Missing.Deep }}",
    "{{ .Null.Deep }}",
    "{{ .Name.Deep }}",
    "{{ .L.Deep }}",
    "{{ $x := .Null }}{{ $x }}{{ $x.Foo }}",
    "a {{- 1 -}} b",
    "a \n\t{{- 1 }} {{ 2 -}} \r\n b",
    "a {{-1}} b",
    "a {{- -1 -}} b",
    "{{- /* comment */ -}} x",
    "x {{/* {{ nested }} */}} y",
    "x {{/* open",
    "x {{ /* inside */ }} y",
    "x {{/* c */ }} y",
    "{{ 'a' }}{{ '\\n' }}{{ '\\'' }}{{ 'é' }}",
    "{{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 017 }} {{ 1_000 }} {{ 1e3 }} {{ -2.50 }} {{ +3 }} {{ .5 }}",
    "{{ 9223372036854775807 }}",
    "{{ 9223372036854775808 }}",
    "{{ 08 }}",
    '{{ "a\\tb\\x41\\u00e9\\U0001F600\\101" }}',
    '{{ "bad \\q" }}',
    '{{ "open }}',
    '{{ `raw \\n {{ }} " ` }}',
    '{{ "}}" }}',
    "}} {{ `{{` }}",
    "{{",
    "{{ }}",
    "{{ .A",
    "{{ . }",
    "{{ nil }}",
    "{{ true }}{{ false }}",
    "{{ if .Yes }}y{{ end }}{{ if .No }}n{{ else }}e{{ end }}{{ if .Zero }}z{{ else if .N }}n{{ end }}",
    "{{ if .Missing }}m{{ else if .Null }}n{{ else if .None }}l{{ else if .Empty }}s{{ else }}none{{ end }}",
    "{{ if .Yes }}",
    "{{ end }}",
    "{{ else }}",
    "{{ if .Yes }}{{ else }}{{ else }}{{ end }}",
    "{{ if }}{{ end }}",
    "{{ range .L }}[{{ . }}]{{ end }}",
    "{{ range $e := .L }}{{ $e }}{{ . }}{{ end }}",
    "{{ range $i, $e := .L }}{{ $i }}{{ $e }}{{ $.N }}{{ end }}",
    "{{ range $k, $v := .M }}{{ $k }}={{ $v }};{{ end }}",
    "{{ range .Null }}x{{ else }}none{{ end }}{{ range .None }}x{{ else }}{{ .N }}{{ end }}",
    "{{ range .N }}{{ . }}{{ end }}{{ range $i := 2 }}{{ $i }}{{ end }}{{ range 0 }}x{{ else }}z{{ end }}",
    "{{ range $i, $x := 2 }}x{{ end }}",
    "{{ range .Name }}x{{ end }}",
    "{{ range .F }}x{{ end }}",
    "{{ range $i := .L }}{{ if eq $i `b` }}{{ break }}{{ end }}{{ $i }}{{ end }}",
    "{{ range $i, $e := .L }}{{ if eq $i 1 }}{{ continue }}{{ end }}{{ $e }}{{ end }}",
    "{{ break }}",
    "{{ range .L }}{{ else }}{{ break }}{{ end }}",
    "{{ range $i, $e = .L }}{{ end }}",
    "{{ $i := 0 }}{{ $e := 1 }}{{ range $i, $e = .L }}{{ end }}{{ $i }}{{ $e }}",
    "{{ $e := 1 }}{{ range $e = .L }}{{ end }}{{ $e }}",
    "{{ range $a, $b, $c := .L }}{{ end }}",
    "{{ range $e := .Mixed }}{{ $e }};{{ end }}",
    "{{ range .Mixed }}{{ . }};{{ end }}",
    "{{ range .Mixed }}{{ .x }}{{ end }}",
    "{{ range $x := .L }}{{ end }}{{ $x }}",
    "{{ if $x := .N }}{{ $x }}{{ end }}",
    "{{ if $x := .Zero }}{{ else }}{{ $x }}{{ end }}",
    "{{ $x := 1 }}{{ if .Yes }}{{ $x = 2 }}{{ end }}{{ $x }}",
    "{{ $x := 1 }}{{ if .Yes }}{{ $x := 2 }}{{ end }}{{ $x }}",
    "{{ $x = 1 }}",
    "{{ $nope }}",
    "{{ with .M }}{{ .k }}{{ $.N }}{{ end }}{{ with .Null }}x{{ else }}{{ .N }}{{ end }}",
    "{{ with .Null }}x{{ else with .L }}{{ . }}{{ else }}y{{ end }}",
    "{{ with $v := .N }}{{ $v }}{{ . }}{{ end }}",
    '{{ define "t" }}<{{ . }}>{{ end }}{{ template "t" .N }}{{ template "t" }}',
    '{{ template "t" .L }}{{ define "t" }}{{ range . }}{{ . }}{{ end }}{{ end }}',
    '{{ block "b" .L }}{{ len . }}{{ end }}',
    '{{ template "nope" . }}',
    '{{ define "t" }}a{{ end }}{{ define "t" }}b{{ end }}',
    '{{ define "t" }}{{ $ }}{{ end }}{{ template "t" 7 }}',
    '{{ $x := 1 }}{{ define "t" }}{{ $x }}{{ end }}',
    '{{ define "r" }}{{ if . }}{{ len . }}{{ template "r" slice . 1 }}{{end}}{{end}}{{ template "r" .L }}',
    "{{ eq 1 1 }}{{ eq 1 2 1 }}{{ eq `a` `b` }}{{ eq .Null nil }}{{ eq .Missing `x` }}{{ ne 1 2 }}",
    "{{ eq 1 1.0 }}",
    "{{ eq .L .L }}",
    "{{ eq .L nil }}",
    "{{ eq 1 }}",
    "{{ eq }}",
    "{{ ne 1 }}",
    "{{ eq true true }}{{ eq 2.5 .F }}{{ eq (index `a` 0) 97 }}",
    "{{ lt 1 2 }}{{ le 2 2 }}{{ gt `b` `a` }}{{ ge 1.5 2.5 }}{{ lt (index `b` 0) 99 }}",
    "{{ lt true false }}",
    "{{ lt 1 `a` }}",
    "{{ lt .Null 1 }}",
    "{{ and 1 0 2 }}|{{ and 1 2 }}|{{ or 0 `` `x` }}|{{ or 0 `` }}|{{ not 1 }}{{ not `` }}",
    "{{ and }}",
    "{{ or .Yes (index .L 99) }}{{ and .No (index .L 99) }}",
    "{{ .Yes | and .N }}{{ .Null | or .No }}",
    "{{ len .L }}{{ len .Name }}{{ len .M }}{{ len `é` }}{{ len .None }}",
    "{{ len .Null }}",
    "{{ len 3 }}",
    "{{ index .L 1 }}{{ index .M `k` }}{{ index .M `a` `b` 0 }}{{ index `abc` 1 }}{{ index .M `zzz` }}",
    "{{ index .L 3 }}",
    "{{ index .L -1 }}",
    "{{ index .L `a` }}",
    "{{ index .M 1 }}",
    "{{ index .Null 1 }}",
    "{{ index 5 1 }}",
    "{{ index .L }}",
    "{{ (index .Mixed 3).x }}{{ (index .M `a`).b }}{{ (index .Mixed 2).x }}",
    "{{ slice .L 1 }}{{ slice .L 1 2 }}{{ slice `abcd` 1 3 }}{{ slice .L 0 1 2 }}{{ slice .L }}",
    "{{ slice `é` 0 1 }}",
    "{{ print (slice `é` 0 1) (slice `é` 1) }}",
    "{{ slice `abc` 2 1 }}",
    "{{ slice `abc` 4 }}",
    "{{ slice `abc` 0 1 2 }}",
    "{{ slice .M 0 }}",
    "{{ print 1 2 `a` `b` 3 .Null nil 4 }}|{{ println 1 `a` }}|{{ print }}|{{ print .Mixed }}",
    '{{ printf `%s %d %v %q %t %% %c %5d|%-5s|` `s` 7 .L `q"\\n` true 65 42 `ab` }}',
    "{{ printf `%d` `s` }}{{ printf `%s` 1 }}{{ printf `%s` }}{{ printf `x` 1 `y` nil }}{{ printf `%` }}",
    "{{ printf `%s|%v` .Null .Missing }}{{ printf `%q` 65 }}{{ printf `%f %.2f` .F .F }}",
    "{{ printf `%s` .L }}{{ printf `%s` .Mixed }}{{ printf `%v` .M }}{{ printf `%d` 1.5 }}",
    "{{ printf 1 }}",
    "{{ printf .Null }}",
    "{{ printf }}",
    "{{ `%s` | printf }}{{ `x` | printf `%s` }}{{ 1 | printf `%d%d` 2 }}",
    "{{ html .Name }}{{ html .Null }}{{ html 1 `<` }}{{ urlquery .Name `a b/~` }}",
    "{{ json .Name }}{{ json .M }}{{ json .Mixed }}{{ json .Null }}{{ json `\\u2028<` }}{{ json .None }}",
    "{{ json .F }}{{ json .Whole }}{{ json .Huge }}{{ json .Tiny }}",
    "{{ json 1e21 }}{{ json 1e-7 }}{{ json 0.000001 }}",
    "{{ .F }} {{ .Whole }} {{ .Huge }} {{ .Tiny }} {{ .Big }}",
    "{{ 100000.0 }} {{ 1e20 }} {{ 1e21 }} {{ 0.0001 }} {{ 0.00001 }}",
    '{{ json "\\x00\\x1f\\x7f\\b\\f\\\\" }}{{ json "\\xff" }}',
    "{{ json 1 2 }}",
    "{{ nosuch 1 }}",
    "{{ .N 1 }}",
    "{{ 1 | .N }}",
    "{{ 1 2 }}",
    "{{ . 1 }}",
    "{{ 1 | 2 }}",
    "{{ 1 | }}",
    "{{ | 1 }}",
    "{{ .L | len | print `n=` }}",
    "{{ len (slice .L 1) | eq 2 }}",
    "{{ (1) }}{{ ((print 1)) }}{{ (1 }}",
    "{{ ) }}",
    "{{ .A.B.C }}",
    "{{ $.N }}{{ $ | len }}",
    "{{ `a`.b }}",
    "{{ 1.x }}",
    "{{ .x,y }}",
    "{{ $x, $y := .L }}",
    "{{ .N .Name }}",
    "{{ if eq .N 3 }}three{{end}}{{ if and (eq .N 3) (ne .Name ``) }}both{{ end }}",
    "{{ currentDate }}{{ yesterdayDate `x` }}",
    "{{\n.N\n|\nprint\n}}",
    "{{ .Name}}{{.Name }}{{print`a``b`}}",
    "{{ .N}}}",
    "{{{ .N }}",
    "{{ .@ }}",
    '{{ "a\nb" }}',
    "{{ .Ünï }}",
    "{{ define `x` }}",
    "{{ define x }}{{ end }}",
    "{{ if .Yes }}{{ define `x` }}{{ end }}{{ end }}",
    "{{ template `x` 1 2 }}",
    "{{ else if .N }}{{ end }}",
    "{{ with .N }}{{ else if .N }}{{ end }}",
    "{{ range .L }}{{ else if .N }}{{ end }}",
    "{{ $ }}",
    "{{ $x := 1 }}{{ $x }}{{ $x := 2 }}{{ $x }}",
    "{{ $x := 1 | print 2 }}{{ $x }}",
    "{{ range $i, $m := .L }}{{ if eq (len (slice $.L $i)) 1 }}last {{ $m }}{{ end }}{{ end }}",
]


def ours(template: str, data: Any) -> bytes | None:
    try:
        return to_bytes(GoTemplate(template).execute(data))
    except TemplateError:
        return None


@pytest.mark.parametrize("template", HAND_WRITTEN)
def test_agrees_with_go(template: str) -> None:
    assert ours(template, DATA) == go_oracle().render(template, DATA)


# A grammar of templates, biased towards what makes sense.

_words = st.sampled_from(
    [".Name", ".N", ".F", ".L", ".M", ".M.k", ".Null", ".Missing", ".Yes", ".Empty", ".", "$"]
)
_literals = st.one_of(
    st.integers(-3, 9).map(str),
    st.sampled_from(["nil", "true", "2.5", '"a"', "`b`", "'c'", '"é\\n"']),
)
_variables = st.sampled_from(["$", "$x", "$y"])


def _calls(operand: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    one = st.sampled_from(["len", "not", "json", "html", "print", "index", "slice", "println"])
    two = st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge", "and", "or", "index", "print"])
    formats = st.sampled_from(["%s", "%v", "%q", "%d", "[%s]", "%s %s", "%t"])
    return st.one_of(
        st.builds("(slice {} {})".format, operand, st.integers(0, 3)),  # slice takes no int out of a map
        st.builds("({} {})".format, one, operand),
        st.builds("({} {} {})".format, two, operand, operand),
        st.builds("(printf `{}` {})".format, formats, operand),
        st.builds("({} | {})".format, operand, one),
        st.builds("({} {} {} {})".format, two, operand, operand, operand),
        st.builds("({}).k".format, operand),
    )


_operands = st.recursive(st.one_of(_words, _literals, _variables), _calls, max_leaves=6)
_texts = st.sampled_from(["", " ", "x", "\n", " a ", "}}", "é"])
_opens, _closes = st.sampled_from(["{{", "{{- ", "{{ "]), st.sampled_from(["}}", " -}}", " }}"])


def _action(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds("{}{}{}".format, _opens, inner, _closes)


def _blocks(body: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    heads = st.one_of(
        st.builds("{} {}".format, st.sampled_from(["if", "with", "range"]), _operands),
        st.builds("{} $x := {}".format, st.sampled_from(["if", "with", "range"]), _operands),
        st.builds("range $x, $y := {}".format, _operands),
    )
    ends = st.builds(
        "{}{}".format, st.one_of(st.just(""), st.builds("{{{{else}}}}{}".format, body)), st.just("{{end}}")
    )
    return st.one_of(
        st.builds("{}{}{}".format, _action(heads), body, ends),
        st.builds("{}{}".format, body, body),
        st.builds(
            "{}{}".format,
            _action(st.builds("{} {} {}".format, _variables, st.sampled_from([":=", "="]), _operands)),
            body,
        ),
    )


_leaves = st.one_of(
    _texts, _action(_operands), st.sampled_from(["{{break}}", "{{continue}}", "{{/* c */ -}}"])
)
templates = st.recursive(_leaves, _blocks, max_leaves=10).map(lambda t: "{{ $x := 1 }}{{ $y := .L }}" + t)


@settings(max_examples=200, deadline=None)
@given(templates)
def test_agrees_with_go_on_generated_templates(template: str) -> None:
    assert ours(template, DATA) == go_oracle().render(template, DATA)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="{}-/* .$()|:=\"`'\\xNL1e,@\n", max_size=24))
def test_agrees_with_go_on_noise(template: str) -> None:
    expected = go_oracle().render("{{" + template, DATA)
    assert ours("{{" + template, DATA) == expected


def test_printable_equals_go_over_all_code_points() -> None:
    bounds = [int(word, 16) for word in go_oracle().ask(printable=True)["text"].split()]
    expected, last, flips = [], False, set(bounds)
    for code in range(0x110000):
        last = last != (code in flips)
        expected.append(last)
    assert [is_print(chr(code)) for code in range(0x110000)] == expected


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=200, deadline=None)
def test_quotes_like_go_and_reads_it_back(text: str) -> None:
    literal = quote(text)
    assert go_oracle().ask(quote=text)["text"] == literal
    assert GoTemplate("{{ " + literal + " }}").execute({}) == text
    assert json.loads(GoTemplate("{{ json . }}").execute(text)) == text


@pytest.mark.parametrize(
    ("template", "limits"),
    [
        ("{{ range 1000 }}{{ range 1000 }}{{ range 1000 }}{{ end }}{{ end }}{{ end }}", Limits(steps=10_000)),
        ("{{ range 1000 }}0123456789{{ end }}", Limits(output=999)),
        ('{{ define "r" }}{{ template "r" . }}{{ end }}{{ template "r" . }}', Limits()),
        ("{{ printf `%9999999d` 1 }}", Limits()),
        ("{{ if 1 }}" * 5000, Limits()),
        ("{{ " + "(" * 5000, Limits()),
        ("{{ $x := `ab` }}{{ range 64 }}{{ $x = print $x $x }}{{ end }}", Limits(output=1 << 16)),
        ("{{ if 0 }}" + "{{ else if 0 }}" * 5000 + "{{ end }}", Limits()),
        ("{{ print" + " .a" * 300 + ("." + "b" * 10) * 3000 + " }}", Limits(steps=10)),
    ],
)
def test_hostile_templates_end_in_a_template_error_or_at_once(template: str, limits: Limits) -> None:
    with contextlib.suppress(TemplateError):
        GoTemplate(template).execute({"a": {}}, limits)


def test_errors_name_the_line() -> None:
    with pytest.raises(TemplateError, match="line 3"):
        GoTemplate("a\nb\n{{ nosuch }}")
    with pytest.raises(TemplateError, match="line 2"):
        GoTemplate("a\n{{ index .L 5 }}").execute(DATA)


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(TemplateError, match="surrogate"):
        GoTemplate("{{ .x }}").execute({"x": "\ud800"})
