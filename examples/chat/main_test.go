package main

import "testing"

func TestDemonstration(t *testing.T) {
	if err := demonstrate(t.Context()); err != nil {
		t.Error(err)
	}
}
