// The oracle of the Go template tests: reads JSON lines, answers each with one JSON line.
// {"template", "data", "messages"} runs Go's own text/template as Ollama configures it;
// {"printable": true} lists where strconv.IsPrint changes its mind; {"quote": s} is strconv.Quote.
package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"text/template"
	"time"
)

type call struct {
	ID       string
	Function struct {
		Index     int
		Name      string
		Arguments map[string]any
	}
}

type message struct {
	Role, Content, Thinking string
	ToolCalls               []call
	ToolName, ToolCallID    string
}

// What Ollama makes of a request's tools before a template sees them.
type property struct {
	AnyOf       []property     `json:"anyOf,omitempty"`
	Type        any            `json:"type,omitempty"`
	Items       any            `json:"items,omitempty"`
	Description string         `json:"description,omitempty"`
	Enum        []any          `json:"enum,omitempty"`
	Properties  map[string]any `json:"properties,omitempty"`
}

type parameters struct {
	Type       string              `json:"type"`
	Defs       any                 `json:"$defs,omitempty"`
	Items      any                 `json:"items,omitempty"`
	Required   []string            `json:"required,omitempty"`
	Properties map[string]property `json:"properties"`
}

type tool struct {
	Type     string `json:"type"`
	Items    any    `json:"items,omitempty"`
	Function struct {
		Name        string     `json:"name"`
		Description string     `json:"description"`
		Parameters  parameters `json:"parameters"`
	} `json:"function"`
}

type request struct {
	Tools     []tool
	Template  string
	Data      json.RawMessage
	Messages  []*message
	Printable bool
	Today     string
	Quote     *string
}

var functions = template.FuncMap{
	"json":          func(v any) string { text, _ := json.Marshal(v); return string(text) },
	"currentDate":   func(...string) string { return time.Now().Format("2006-01-02") },
	"yesterdayDate": func(...string) string { return time.Now().AddDate(0, 0, -1).Format("2006-01-02") },
}

// plain turns decoded JSON into what a template is given: whole numbers are ints, capacities are exact.
func plain(value any) any {
	switch v := value.(type) {
	case json.Number:
		if !strings.ContainsAny(v.String(), ".eE") {
			n, _ := strconv.Atoi(v.String())
			return n
		}
		f, _ := v.Float64()
		return f
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = plain(v[i])
		}
		return list
	case map[string]any:
		for key := range v {
			v[key] = plain(v[key])
		}
	}
	return value
}

func execute(r request) (text string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	blank := template.New("").Option("missingkey=zero").Funcs(functions)
	if r.Today != "" {
		blank = blank.Funcs(template.FuncMap{"currentDate": func(...string) string { return r.Today }})
	}
	parsed, err := blank.Parse(r.Template)
	if err != nil {
		return "", err
	}
	var data any
	decoder := json.NewDecoder(bytes.NewReader(r.Data))
	decoder.UseNumber()
	if err := decoder.Decode(&data); err != nil {
		return "", err
	}
	data = plain(data)
	if r.Messages != nil {
		data.(map[string]any)["Messages"] = r.Messages
	}
	if r.Tools != nil {
		data.(map[string]any)["Tools"] = r.Tools
	}
	var out bytes.Buffer
	err = parsed.Execute(&out, data)
	return base64.StdEncoding.EncodeToString(out.Bytes()), err
}

func printable() string {
	var bounds []string
	last := false
	for r := rune(0); r <= 0x10FFFF; r++ {
		if now := strconv.IsPrint(r); now != last {
			bounds, last = append(bounds, fmt.Sprintf("%x", r)), now
		}
	}
	return strings.Join(bounds, " ")
}

func answer(line []byte) map[string]string {
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		return map[string]string{"error": "request: " + err.Error()}
	}
	if r.Printable {
		return map[string]string{"text": printable()}
	}
	if r.Quote != nil {
		return map[string]string{"text": strconv.Quote(*r.Quote)}
	}
	out, err := execute(r)
	if err != nil {
		return map[string]string{"error": err.Error()}
	}
	return map[string]string{"out": out}
}

func main() {
	input := bufio.NewReader(os.Stdin)
	output := json.NewEncoder(os.Stdout)
	for {
		line, err := input.ReadBytes('\n')
		if err != nil {
			return
		}
		if err := output.Encode(answer(line)); err != nil {
			return
		}
	}
}
