package message

import (
	"bytes"
	"compress/flate"
	"io"
	"slices"
	"sync"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// A leg reads the messages of one side, and writes those for it.
type leg struct {
	side    frame.Side
	deflate Deflate

	header [frame.MaxDataHeader]byte // owned by the reader; here, because a variable would be allocated for each frame
	window []byte                    // owned by the reader; the end of what was unpacked, if the next message may refer to it
	packer *packer                   // owned by whoever writes to the side; nil: not needed yet, or no context takeover
}

// keepsUnpacking and keepsPacking report whether messages from the side, and those
// for it, may refer to earlier ones.
func (l *leg) keepsUnpacking() bool { return l.deflate.keeps[l.side] }
func (l *leg) keepsPacking() bool   { return l.deflate.keeps[l.side.Other()] }

// read reads a message into m. Package relay has checked the frames: their order,
// their masking and their reserved bits.
func (l *leg) read(m *taken, in io.Reader, limit int, total *Total) error {
	b, wire := (*m.buf)[:0], 0
	defer func() { *m.buf = b }()
	packed := false
	for first := true; ; first = false {
		h, err := l.readHeader(in)
		if err != nil {
			return err
		}
		if first {
			m.Op, packed = h.Opcode(), h.First&frame.RSV1Bit != 0
		}
		wire += h.Size + int(h.Length)
		if !packed && int(h.Length) > limit-len(b) {
			return protocol.ErrTooBig
		}
		if b, err = readPayload(in, b, h); err != nil {
			return err
		}
		if h.Fin() {
			break
		}
	}
	if packed {
		unpacked := buffers.Get().(*[]byte)
		data, err := l.unpack((*unpacked)[:0], b, limit)
		*unpacked = data
		if err != nil {
			putBuffer(unpacked)
			return err
		}
		*m.buf = b
		putBuffer(m.buf)
		m.buf, b = unpacked, data
		total.add(wire, len(b))
	}
	m.Data = b
	return nil
}

// readHeader reads a frame's header.
func (l *leg) readHeader(in io.Reader) (h frame.Header, err error) {
	b, masked := &l.header, l.side == frame.Client
	if _, err = io.ReadFull(in, b[:2]); err != nil {
		return h, io.ErrUnexpectedEOF
	}
	size := 2
	switch b[1] &^ frame.MaskBit {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if masked {
		size += 4
	}
	if _, err = io.ReadFull(in, b[2:size]); err != nil {
		return h, io.ErrUnexpectedEOF
	}
	s := frame.Scanner{Masked: masked, RSVMessage: frame.RSVBits, InMessage: b[0]&0x0F == frame.OpContinuation}
	return s.Next(b[:size])
}

// leastRead is how much a buffer grows by at least.
const leastRead = 512

// readPayload appends a frame's payload to b. It does not trust the announced length
// before the bytes have arrived.
func readPayload(in io.Reader, b []byte, h frame.Header) ([]byte, error) {
	start, left := len(b), int(h.Length)
	for left > 0 {
		if len(b) == cap(b) {
			b = slices.Grow(b, min(left, max(len(b), leastRead)))
		}
		n, err := in.Read(b[len(b):min(cap(b), len(b)+left)])
		b, left = b[:len(b)+n], left-n
		if err != nil {
			return b, io.ErrUnexpectedEOF
		}
	}
	if h.Key != 0 {
		frame.Mask(b[start:], h.Key)
	}
	return b, nil
}

// write appends a message to b: as one frame.
func (l *leg) write(b []byte, m *Message, total *Total) ([]byte, error) {
	first := m.Op
	data := m.Data
	if l.deflate.packs(len(data)) {
		buf := buffers.Get().(*[]byte)
		defer putBuffer(buf)
		packed, err := l.pack((*buf)[:0], data)
		*buf = packed
		if err != nil {
			return b, err
		}
		if l.keepsPacking() || len(packed) < len(data) {
			first |= frame.RSV1Bit
			data = packed
		}
	}
	start := len(b)
	b = frame.AppendMessage(b, first, l.side == frame.Upstream, data)
	if first&frame.RSV1Bit != 0 {
		total.add(len(b)-start, len(m.Data))
	}
	return b, nil
}

// windowSize is how far back DEFLATE can refer (RFC 1951, 2).
const windowSize = 32 << 10

// tail is what a sender has removed from the end of a message (RFC 7692, 7.2.1), and
// a last empty block, so that the end of the stream can be told from its being cut.
const tail = "\x00\x00\xff\xff\x01\x00\x00\xff\xff"

// An unpacker unpacks one message at a time.
type unpacker struct {
	in    bytes.Reader
	flate io.ReadCloser
}

var unpackers = sync.Pool{New: func() any {
	u := new(unpacker)
	u.flate = flate.NewReader(&u.in)
	return u
}}

// unpack appends what packed unpacks to to b. It may append to packed as well.
func (l *leg) unpack(b, packed []byte, limit int) ([]byte, error) {
	u := unpackers.Get().(*unpacker)
	defer unpackers.Put(u)
	u.in.Reset(append(packed, tail...))
	if err := u.flate.(flate.Resetter).Reset(&u.in, l.window); err != nil {
		return b, err
	}
	defer u.in.Reset(nil)
	for {
		if len(b) == cap(b) {
			b = slices.Grow(b, max(len(b), leastRead))
		}
		n, err := u.flate.Read(b[len(b):min(cap(b), limit+1)])
		b = b[:len(b)+n]
		switch {
		case len(b) > limit:
			return b, protocol.ErrTooBig
		case err == io.EOF: // of the last block, whether ours or the sender's (RFC 7692, 7.2.3.4)
			if l.keepsUnpacking() {
				l.slide(b)
			}
			return b, nil
		case err != nil:
			return b, protocol.ErrCorrupt
		}
	}
}

// slide moves the window on to the end of b, which was unpacked.
func (l *leg) slide(b []byte) {
	if l.window == nil {
		l.window = make([]byte, 0, windowSize)
	}
	b = b[max(0, len(b)-windowSize):]
	if over := len(l.window) + len(b) - windowSize; over > 0 {
		l.window = l.window[:copy(l.window, l.window[over:])]
	}
	l.window = append(l.window, b...)
}

// A packer packs one message at a time, into out.
type packer struct {
	out   []byte
	flate *flate.Writer
}

var packers = sync.Pool{New: func() any {
	p := new(packer)
	p.flate, _ = flate.NewWriter(p, flate.BestSpeed) // the level is valid
	return p
}}

func (p *packer) Write(b []byte) (int, error) {
	p.out = append(p.out, b...)
	return len(b), nil
}

// pack appends to b what data is packed to, without its tail (RFC 7692, 7.2.1).
func (l *leg) pack(b, data []byte) ([]byte, error) {
	p := l.packer
	if p == nil {
		p = packers.Get().(*packer)
		p.flate.Reset(p)
		if l.keepsPacking() {
			l.packer = p
		} else {
			defer packers.Put(p)
		}
	}
	p.out = b
	_, err := p.flate.Write(data)
	if err == nil {
		err = p.flate.Flush()
	}
	b, p.out = p.out, nil
	return bytes.TrimSuffix(b, []byte(tail[:4])), err
}
