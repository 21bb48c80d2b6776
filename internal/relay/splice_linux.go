//go:build linux && (amd64 || arm64)

package relay

import (
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"unsafe"
)

// This file moves the rest of a long frame from socket to socket through a pipe,
// without a buffer in user space (splice(2)).

const (
	spliceFrom = 16 << 10 // the minimum rest of a frame for which a pipe is used
	spliceSize = 1 << 20  // the requested size of a pipe
)

// splice moves the available bytes of the current frame from the socket to the
// opposite leg. It holds a pipe only while there are bytes in it.
func (p *pump) splice(fd uintptr) (again, done bool) {
	pipe := getPipe()
	if pipe == nil { // no descriptors left
		return p.read(fd)
	}
	n, errno := splice(int(fd), pipe.w, int(min(p.mind.Left, spliceSize)))
	if n <= 0 {
		pipe.release()
		switch {
		case errno == syscall.EAGAIN && atMark(fd):
			p.from.reader.plain = true
			return true, false
		case errno == syscall.EAGAIN:
			return false, false
		case errno == syscall.EINTR:
			return true, false
		case errno == syscall.EINVAL, errno == syscall.ENOSYS, errno == syscall.EPERM:
			p.from.reader.plain = true // for example, a sandbox forbids it
			return true, false
		case errno == 0:
			p.from.err = io.EOF
		default:
			p.from.err = os.NewSyscallError("splice", errno)
		}
		return false, true
	}
	now := p.from.s.now()
	p.from.heard.Store(int64(now))
	if p.mind.Data {
		p.data.Store(int64(now))
	}
	frames, messages := p.mind.Skip(n)

	to := p.to()
	pipe.to, pipe.held, pipe.err = to, int(n), nil
	to.writing.Store(int64(now))
	p.from.set(legWaits, true)
	err := to.raw.conn.Write(pipe.drain)
	to.writing.Store(-1)
	if err != nil || pipe.err != nil {
		to.fail()
		frames, messages = 0, 0
	}
	p.add(frames, messages, int(n)-pipe.held)
	if pipe.to = nil; pipe.held == 0 {
		pipe.release()
	} else {
		pipe.close()
	}
	if p.mind.Left == 0 || to.mute() {
		p.from.owns, to.inMessage = false, p.mind.Scan.InMessage
		to.release()
	}
	p.from.set(legWaits, false)
	return true, false
}

// A pipe is what splice needs between two sockets.
type pipe struct {
	r, w  int
	to    *leg
	held  int // bytes in it
	err   error
	drain func(fd uintptr) bool
}

// empty moves the contents of the pipe into the socket. It returns false if the
// socket accepts no more for now.
func (p *pipe) empty(fd uintptr) (done bool) {
	for p.held > 0 {
		n, errno := splice(p.r, int(fd), p.held)
		switch {
		case n > 0:
			if p.held -= int(n); p.held > 0 {
				p.to.progress()
			}
		case errno == syscall.EAGAIN:
			return false
		case errno != syscall.EINTR:
			p.err = os.NewSyscallError("splice", errno)
			return true
		}
	}
	return true
}

// idlePipes keeps empty pipes for later long frames, at most one for each
// processor, since a pump holds on to a pipe only while its opposite leg is
// stuck.
var idlePipes struct {
	sync.Mutex
	list []*pipe
	made int // existing pipes, including those in use
}

var mostIdlePipes = runtime.NumCPU()

// mostPipes returns the maximum number of pipes, which take a quarter of the
// process's descriptors. Peers that read nothing determine how many pipes are
// in use, and for how long; descriptors must remain for others.
func mostPipes() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return int(min(limit.Cur/8, 1<<20)) // a pipe takes two
}

// getPipe returns an empty pipe, or nil if there is no descriptor for one.
func getPipe() *pipe {
	idlePipes.Lock()
	if last := len(idlePipes.list) - 1; last >= 0 {
		p := idlePipes.list[last]
		idlePipes.list = idlePipes.list[:last]
		idlePipes.Unlock()
		return p
	}
	enough := idlePipes.made >= mostPipes()
	if !enough {
		idlePipes.made++
	}
	idlePipes.Unlock()
	if enough {
		return nil
	}
	var fds [2]int
	if syscall.Pipe2(fds[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK) != nil {
		lessPipes()
		return nil
	}
	syscall.Syscall(syscall.SYS_FCNTL, uintptr(fds[0]), f_SETPIPE_SZ, spliceSize) // best effort
	p := &pipe{r: fds[0], w: fds[1]}
	p.drain = p.empty
	return p
}

// release returns an empty pipe to idlePipes, or closes it if those are enough.
func (p *pipe) release() {
	idlePipes.Lock()
	keep := len(idlePipes.list) < mostIdlePipes
	if keep {
		idlePipes.list = append(idlePipes.list, p)
	}
	idlePipes.Unlock()
	if !keep {
		p.close()
	}
}

func (p *pipe) close() {
	syscall.Close(p.r)
	syscall.Close(p.w)
	lessPipes()
}

// lessPipes records that there is one pipe less.
func lessPipes() {
	idlePipes.Lock()
	idlePipes.made--
	idlePipes.Unlock()
}

// FreeDescriptors closes the idle pipes, and reports whether there were any.
func FreeDescriptors() bool {
	idlePipes.Lock()
	list := idlePipes.list
	idlePipes.list = nil
	idlePipes.Unlock()
	for _, p := range list {
		p.close()
	}
	return len(list) > 0
}

func splice(from, to, n int) (int64, syscall.Errno) {
	m, _, errno := syscall.RawSyscall6(syscall.SYS_SPLICE, uintptr(from), 0,
		uintptr(to), 0, uintptr(n), spliceMove|spliceNonblock)
	return int64(m), errno
}

// atMark reports whether the next byte that a socket has is urgent data, which a read
// skips, and a splice never passes.
func atMark(fd uintptr) bool {
	at := int32(0)
	syscall.RawSyscall(syscall.SYS_IOCTL, fd, siocATMARK, uintptr(unsafe.Pointer(&at)))
	return at != 0
}

const (
	siocATMARK     = 0x8905
	f_SETPIPE_SZ   = 1031
	spliceMove     = 1
	spliceNonblock = 2
)
