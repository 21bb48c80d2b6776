package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// SIGTERM does not wait for a source that does not answer (a name server, for
// example), neither during the start nor during a reload. Here the source is a
// FIFO, whose reader blocks until there is a writer.
func TestProcessSlowSource(t *testing.T) {
	waits := head + "[[route]]\npath = \"/\"\nupstreams_file = \"members.json\"\n"
	fifo := func(dir string) string {
		path := filepath.Join(dir, "members.json")
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Run("reloading", func(t *testing.T) {
		dir := t.TempDir()
		members := fifo(dir)
		a := newUpstream(t, "a")
		p := startProcess(t, "--config", writeFile(t, dir, "wsproxy.toml", head+routes(a)))
		writeFile(t, dir, "wsproxy.toml", waits)
		p.signal(t, syscall.SIGHUP)
		readBy(t, members)
		dial(t, "ws://"+p.public+"/a", nil).CloseNow() // it goes on meanwhile
		p.signal(t, syscall.SIGTERM)
		if code := p.exited(t); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
	})
	t.Run("starting", func(t *testing.T) {
		dir := t.TempDir()
		members := fifo(dir)
		p := spawn(t, "--config", writeFile(t, dir, "wsproxy.toml", waits))
		f := readBy(t, members) // when it checks the file
		os.Remove(members)
		fifo(dir) // for the next time
		f.WriteString(`[{"target": "http://127.0.0.1:1"}]`)
		f.Close()
		readBy(t, members) // when it starts
		p.signal(t, syscall.SIGTERM)
		if code := p.exited(t); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
	})
}

// readBy waits until somebody reads from the FIFO, and returns its other end.
func readBy(t *testing.T, fifo string) (f *os.File) {
	t.Helper()
	eventually(t, "somebody reads", func() (read bool) {
		var err error
		f, err = os.OpenFile(fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		return err == nil
	})
	t.Cleanup(func() { f.Close() })
	return f
}
