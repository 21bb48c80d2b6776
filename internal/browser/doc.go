// Package browser has a real browser, headless Chromium, talk through the
// proxy, as a person would use it: pages over https, whose certificates it
// trusts because their authority is in its database and not because it was
// told to look away. It holds tests only, in a module of its own, so that its
// dependencies are nobody else's.
//
// setup.sh installs Chromium and certutil. Where one is missing the tests are
// skipped, and fail if the environment has CI=true.
package browser
