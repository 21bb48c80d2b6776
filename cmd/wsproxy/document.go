package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// This file reads TOML in a way that reports every mistake at once, each with
// file and line, including those found by later checks. Decoding into structs
// would stop at the first value of a wrong type.

// A document is a parsed configuration file.
type document struct {
	name     string          // of the file; "" if the configuration comes from flags
	lines    map[string]int  // by path, such as route[0].upstreams[1].target
	known    map[string]bool // paths of keys that were read
	mistakes []mistake
}

// A mistake is an error in the file that its author has to correct.
type mistake struct {
	place string // wsproxy.toml:12
	line  int
	text  string
}

func (m mistake) Error() string { return m.place + ": " + m.text }

// parse parses a document and returns its root table, or nil if the text is not
// TOML.
func parse(name string, text []byte) (*document, *table) {
	d := newDocument(name)
	values := make(map[string]any)
	if err := toml.Unmarshal(text, &values); err != nil {
		line := 0
		if bad, ok := errors.AsType[*toml.DecodeError](err); ok {
			line, _ = bad.Position()
		}
		d.mistakeAt(line, strings.TrimPrefix(err.Error(), "toml: "))
		return d, nil
	}
	d.lines = lines(text)
	return d, &table{d, "", values}
}

func newDocument(name string) *document {
	return &document{name: name, known: make(map[string]bool)}
}

// mistake records a mistake in the value at a path. If there is no value, the
// line is that of the table that should contain it.
func (d *document) mistake(path, format string, args ...any) {
	line := 0
	for p := path; line == 0 && p != ""; p = parent(p) {
		line = d.lines[p]
	}
	text := fmt.Sprintf(format, args...)
	if path != "" {
		key := index.ReplaceAllString(path, "")
		if d.name == "" {
			key = cmp.Or(flagOf[key], key)
		}
		text = key + ": " + text
	}
	d.mistakeAt(line, text)
}

// index matches an index in a path. Messages leave it out: the line tells the
// elements apart.
var index = regexp.MustCompile(`\[\d+\]`)

func (d *document) mistakeAt(line int, text string) {
	m := mistake{place: cmp.Or(d.name, "wsproxy"), line: line, text: text}
	if line > 0 {
		m.place += ":" + strconv.Itoa(line)
	}
	if !slices.Contains(d.mistakes, m) { // a shared value is checked once for each route
		d.mistakes = append(d.mistakes, m)
	}
}

// err returns all mistakes, in the order of their lines.
func (d *document) err() error {
	slices.SortStableFunc(d.mistakes, func(a, b mistake) int { return cmp.Compare(a.line, b.line) })
	errs := make([]error, len(d.mistakes))
	for i, m := range d.mistakes {
		errs[i] = m
	}
	return errors.Join(errs...)
}

// file returns the path of a file that the document names. Relative names are
// relative to the document's directory.
func (d *document) file(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(d.name), name)
}

// parent returns a path without its last key or index.
func parent(path string) string { return path[:max(strings.LastIndexAny(path, ".["), 0)] }

// join adds a key to a path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// lines returns the line of each key in a document, by path. The text must be
// valid TOML.
func lines(text []byte) map[string]int {
	found := make(map[string]int)
	count := make(map[string]int) // of arrays of tables, by path
	var p unstable.Parser
	p.Reset(text)
	// walk follows a dotted key.
	walk := func(path string, keys unstable.Iterator) string {
		for keys.Next() {
			if n := count[path]; n > 0 { // the rest of the key is in the last element
				path += "[" + strconv.Itoa(n-1) + "]"
			}
			path = join(path, string(keys.Node().Data))
			if found[path] == 0 {
				found[path] = p.Shape(keys.Node().Raw).Start.Line
			}
		}
		return path
	}
	var value func(path string, n *unstable.Node)
	value = func(path string, n *unstable.Node) {
		i := 0
		for it := n.Children(); it.Next(); {
			child := it.Node()
			switch n.Kind {
			case unstable.InlineTable:
				value(walk(path, child.Key()), child.Value())
			case unstable.Array:
				item := path + "[" + strconv.Itoa(i) + "]"
				if child.Raw.Length > 0 {
					found[item] = p.Shape(child.Raw).Start.Line
				} else if inner := child.Child(); inner != nil && child.Kind == unstable.InlineTable {
					keys := inner.Key()
					keys.Next()
					found[item] = p.Shape(keys.Node().Raw).Start.Line
				}
				value(item, child)
				i++
			}
		}
	}
	within := "" // the table of the last header
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Table:
			within = walk("", e.Key())
		case unstable.ArrayTable:
			path := walk("", e.Key())
			within = path + "[" + strconv.Itoa(count[path]) + "]"
			count[path]++
			last := e.Key()
			for last.Next() {
				found[within] = p.Shape(last.Node().Raw).Start.Line
			}
		case unstable.KeyValue:
			value(walk(within, e.Key()), e.Value())
		}
	}
	return found
}

// A table is one of the document's tables. Its methods return the value of a
// key. They record a mistake if the value has the wrong type.
type table struct {
	doc    *document
	path   string
	values map[string]any
}

func (t *table) mistake(key, format string, args ...any) {
	t.doc.mistake(t.at(key), format, args...)
}

// at returns the path of a key.
func (t *table) at(key string) string { return join(t.path, key) }

func (t *table) has(key string) bool {
	_, ok := t.values[key]
	return ok
}

// end reports the keys that were not read.
func (t *table) end() {
	for _, key := range slices.Sorted(maps.Keys(t.values)) {
		if !t.doc.known[t.at(key)] {
			t.mistake(key, "unknown key")
		}
	}
}

func get[T any](t *table, key string) (v T, ok bool) {
	t.doc.known[t.at(key)] = true
	raw, there := t.values[key]
	if !there {
		return v, false
	}
	if v, ok = raw.(T); !ok {
		t.mistake(key, "want %s, this is %s", kind(v), kind(raw))
	}
	return v, ok
}

// kind describes the type of a value. The value itself may be a secret.
func kind(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case bool:
		return "true or false"
	case int64:
		return "a whole number"
	case float64:
		return "a number"
	case []any:
		return "a list"
	case map[string]any, *map[string]any:
		return "a table"
	}
	return "a date or a time"
}

func (t *table) text(key string) string { v, _ := get[string](t, key); return v }
func (t *table) flag(key string) bool   { v, _ := get[bool](t, key); return v }
func (t *table) whole(key string) int   { v, _ := get[int64](t, key); return int(v) }

// number returns a number, whole or not.
func (t *table) number(key string) float64 {
	if n, ok := t.values[key].(int64); ok {
		t.doc.known[t.at(key)] = true
		return float64(n)
	}
	v, _ := get[float64](t, key)
	return v
}

// duration returns a duration such as "1m30s", or other if the key is not set.
func (t *table) duration(key string, other time.Duration) time.Duration {
	text, ok := get[string](t, key)
	if !ok {
		return other
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.mistake(key, `%q is not a duration such as "1m30s"`, text)
		return other
	}
	return d
}

// texts returns a list of strings.
func (t *table) texts(key string) []string {
	list, _ := get[[]any](t, key)
	texts := make([]string, 0, len(list))
	for i, item := range list {
		text, ok := item.(string)
		if !ok {
			t.mistake(fmt.Sprintf("%s[%d]", key, i), "want %s, this is %s", kind(""), kind(item))
		}
		texts = append(texts, text)
	}
	return texts
}

// each parses a list of strings.
func each[T any](t *table, key, what string, parse func(string) (T, error)) []T {
	var list []T
	for i, text := range t.texts(key) {
		v, err := parse(text)
		if err != nil {
			t.mistake(fmt.Sprintf("%s[%d]", key, i), "%q is not %s", text, what)
			continue
		}
		list = append(list, v)
	}
	return list
}

// table returns a table within the table, or nil if there is none.
func (t *table) table(key string) *table {
	values, ok := get[map[string]any](t, key)
	if !ok {
		return nil
	}
	return &table{t.doc, t.at(key), values}
}

// tables returns a list of tables.
func (t *table) tables(key string) []*table {
	list, _ := get[[]any](t, key)
	var tables []*table
	for i, item := range list {
		path := fmt.Sprintf("%s[%d]", key, i)
		values, ok := item.(map[string]any)
		if !ok {
			t.mistake(path, "want %s, this is %s", kind(values), kind(item))
			continue
		}
		tables = append(tables, &table{t.doc, t.at(path), values})
	}
	return tables
}

// content returns the content of the file that a key names, or nil if the file
// can't be read.
func (t *table) content(key string) []byte {
	name, ok := get[string](t, key)
	if !ok {
		return nil
	}
	content, err := os.ReadFile(t.doc.file(name))
	if err != nil {
		t.mistake(key, "%v", err)
		return nil
	}
	return content
}
