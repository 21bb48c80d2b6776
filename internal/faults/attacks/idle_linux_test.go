package attacks

import (
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A70: a side that has left while the other one does not read costs no CPU, for
// as long as that lasts.
func TestHalfDead(t *testing.T) {
	t.Attr("case", "A70")
	eachSide(t, func(t *testing.T, secure bool, s side) {
		r := newRig(t, secure, wsproxy.WithCloseTimeout(10*time.Second))
		const sessions = 10
		long := frame(s.who, wstest.Binary, strings.Repeat("x", 32<<20))
		for range sessions {
			// One side has filled the buffers and left; the other one reads
			// nothing.
			from, _ := r.between(s, "", "")
			from.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			io.WriteString(from, long)
			from.Below().Close()
			// One side has left with nothing in transit; the other one ignores
			// it.
			gone, to := r.between(s, "", "")
			gone.FIN()
			to.WantClose(s.toldOther)
		}
		began, used := time.Now(), cpu(t)
		<-time.After(time.Second)
		share := float64(cpu(t)-used) / float64(time.Since(began))
		t.Logf("%d sessions took %.1f %% of a CPU", 2*sessions, 100*share)
		if share > 0.1 {
			t.Errorf("%d sessions took %.0f %% of a CPU, want next to nothing", 2*sessions, 100*share)
		}
	})
}

// cpu returns the CPU time that this process has used so far.
func cpu(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
