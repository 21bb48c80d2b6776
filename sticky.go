package wsproxy

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
)

// sticky sends clients back to the member that they came to first, by a cookie.
// Its value names the member to those who know the secret, and to nobody else:
// it is a MAC of the member's name.
type sticky struct {
	cookie http.Cookie
	secret []byte
}

func (s *sticky) sign(name string) string {
	mac := hmac.New(sha256.New, s.secret)
	mac.Write([]byte(name))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}

// token is what a client has brought back; "": nothing.
func (s *sticky) token(r *http.Request) string {
	c, err := r.Cookie(s.cookie.Name)
	if err != nil {
		return ""
	}
	return c.Value
}

// set has the client come back to the member, if it wouldn't by itself.
func (s *sticky) set(h http.Header, m *member, brought string) {
	if m.token == brought && s.cookie.MaxAge == 0 {
		return
	}
	c := s.cookie
	c.Value = m.token
	h.Add("Set-Cookie", c.String())
}
