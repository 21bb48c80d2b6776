package main

import (
	"encoding/json"
	"io"
	"path"
	"slices"
	"strings"
)

// results are the results of tests, by package and test.
type results map[id]*result

type id struct{ pkg, test string }

type result struct {
	cases  []string
	action string // pass, fail or skip
}

// An event is a line of go test -json.
type event struct {
	Action, Package, Test string
	Key, Value            string // of an attribute
}

func (r results) of(i id) *result {
	if r[i] == nil {
		r[i] = new(result)
	}
	return r[i]
}

// read takes in a stream of events. A line that is none, of a build that fails
// say, is an error.
func (r results) read(in io.Reader) error {
	d := json.NewDecoder(in)
	for {
		var e event
		switch err := d.Decode(&e); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		switch e.Action {
		case "attr":
			if e.Key == "case" {
				t := r.of(id{e.Package, e.Test})
				t.cases = append(t.cases, strings.Fields(e.Value)...)
			}
		case "pass", "fail", "skip":
			r.of(id{e.Package, e.Test}).action = e.Action // Test is "" for the package
		}
	}
}

// byCase returns the tests that are about each case.
func (r results) byCase() map[string][]id {
	by := make(map[string][]id)
	for i, t := range r {
		for _, c := range t.cases {
			if !slices.Contains(by[c], i) {
				by[c] = append(by[c], i)
			}
		}
	}
	return by
}

// summary returns how the tests are called in the table, each once with all its
// subtests, and how they went together.
func (r results) summary(tests []id) (names []string, result string) {
	actions := make(map[string]bool)
	for _, i := range tests {
		names = append(names, name(i))
		action := r[i].action
		if action == "" { // it began, and that was the last that was heard
			action = "fail"
		}
		actions[action] = true
	}
	slices.Sort(names)
	names = slices.Compact(names)
	switch {
	case actions["fail"]:
		return names, "**fail**"
	case actions["skip"] && actions["pass"]:
		return names, "pass, some skipped"
	case actions["skip"]:
		return names, "skipped"
	}
	return names, "pass"
}

// name is a test's name without its subtest, behind the last part of its
// package's path, where that is not the proxy's own.
func name(i id) string {
	test, _, _ := strings.Cut(i.test, "/")
	if pkg := path.Base(i.pkg); pkg != "wsproxy" {
		return pkg + "." + test
	}
	return test
}

// failed returns what has failed, whatever it is about: tests, whole packages,
// and what has never ended.
func (r results) failed() []string {
	var found []string
	for i, t := range r {
		if t.action == "fail" || t.action == "" {
			found = append(found, strings.TrimSuffix(i.pkg+" "+i.test, " "))
		}
	}
	slices.Sort(found)
	return found
}
