package wsproxy

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
)

// sticky sends clients back to the member of their first session, by a cookie.
// The cookie's value is a MAC of the member's name: it identifies the member
// only to holders of the secret.
type sticky struct {
	cookie http.Cookie
	secret []byte
}

func (s *sticky) sign(name string) string {
	mac := hmac.New(sha256.New, s.secret)
	mac.Write([]byte(name))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}

// token returns the token that a client has sent back, or "".
func (s *sticky) token(r *http.Request) string {
	c, err := r.Cookie(s.cookie.Name)
	if err != nil {
		return ""
	}
	return c.Value
}

// set sets the cookie of the member, unless the client already sent it and it
// has no MaxAge to renew.
func (s *sticky) set(h http.Header, token, brought string) {
	if token == brought && s.cookie.MaxAge == 0 {
		return
	}
	c := s.cookie
	c.Value = token
	h.Add("Set-Cookie", c.String())
}
