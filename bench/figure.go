//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// reference is the contender by which everything in the figure is divided.
const reference = "reverseproxy"

// drawn are the contenders in the figure, from top to bottom, with colours.
// koding and coder-naive would only stretch it.
var drawn = []struct{ name, colour string }{
	{"wsproxy", "#0969da"}, {"wsproxy-detached", "#54aeff"},
	{reference, "#57606a"}, {"rawtcp", "#b6bec8"}, {"nginx", "#b6bec8"}, {"haproxy", "#b6bec8"}, {"caddy", "#b6bec8"},
}

// panels are the figure's parts, one for a scenario.
var panels = []struct{ scenario, title, unit string }{
	{"echo", "CPU per message, saturated", "µs"},
	{"paced", "CPU per message, at a steady pace", "µs"},
	{"down", "CPU per GB to the client", "s"},
	{"up", "CPU per GB to the upstream", "s"},
	{"handshake", "CPU per session opened and closed", "µs"},
	{"idle", "Memory per idle session", "KiB"},
}

// Lengths, in pixels.
const (
	figureWidth = 840
	margin      = 20
	panelWidth  = (figureWidth - 3*margin) / 2
	nameWidth   = 120 // of the contenders' names
	valueWidth  = 36  // right of the longest bar
	plotWidth   = panelWidth - nameWidth - valueWidth
	figureHead  = 64 // above the panels
	panelHead   = 40 // of a panel, above its bars
	barHeight   = 12
	barStep     = 19
	panelFoot   = 32 // of a panel, below its bars

	scaleEnd = 2.0 // the ratio at which bars are cut: all panels have one scale
)

func runFigure(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var r results
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return r.draw(os.Stdout)
}

// draw writes the figure as SVG. It has its own background, and needs no
// external font or style, so that it looks the same everywhere.
func (r results) draw(w io.Writer) error {
	bars := map[string]map[string]spread{} // by scenario and contender
	units := map[string]string{}           // what 1 stands for, by scenario
	seen := map[string]bool{}
	for _, p := range panels {
		i := slices.IndexFunc(r.Summary, func(t table) bool { return t.Scenario == p.scenario })
		if i < 0 {
			continue
		}
		of := map[string]spread{}
		for _, row := range r.Summary[i].Rows {
			if s, ok := row.Ratios[reference]; ok {
				of[row.Contender], seen[row.Contender] = s, true
			}
			if row.Contender == reference {
				units[p.scenario] = number(row.Figures[figures(p.scenario)[0].name].Median) + " " + p.unit
			}
		}
		if len(of) > 0 {
			bars[p.scenario] = of
		}
	}
	if len(bars) == 0 {
		return errors.New("no scenario of the figure was measured with " + reference)
	}
	rows := 0 // in every panel the same ones, or the panels wouldn't line up
	for _, d := range drawn {
		if seen[d.name] {
			rows++
		}
	}
	rounds := 0
	for _, m := range r.Samples {
		rounds = max(rounds, m.Round+1)
	}
	bottom := rows * barStep
	panelHeight := panelHead + bottom + panelFoot
	var out bytes.Buffer
	fmt.Fprintf(&out, svgHead, figureWidth, figureHead+(len(bars)+1)/2*panelHeight, rounds)
	count := 0
	for _, p := range panels {
		if bars[p.scenario] == nil {
			continue
		}
		fmt.Fprintf(&out, "<g transform=\"translate(%d %d)\">\n", margin+count%2*(panelWidth+margin), figureHead+count/2*panelHeight)
		fmt.Fprintf(&out, "<text y=\"12\" class=\"title\">%s</text>\n", p.title)
		fmt.Fprintf(&out, "<text y=\"28\" class=\"soft\">%s; 1 is %s</text>\n", p.scenario, units[p.scenario])
		fmt.Fprintf(&out, "<g transform=\"translate(%d %d)\">\n", nameWidth, panelHead)
		for _, tick := range []float64{0, 0.5, 1, 1.5, scaleEnd} {
			class := "grid"
			if tick == 1 {
				class = "one"
			}
			fmt.Fprintf(&out, "<path class=\"%s\" d=\"M%.1f 0V%d\"/>", class, at(tick), bottom)
			fmt.Fprintf(&out, "<text x=\"%.1f\" y=\"%d\" class=\"tick\">%g</text>\n", at(tick), bottom+12, tick)
		}
		top := 0
		for _, d := range drawn {
			if seen[d.name] {
				s, ok := bars[p.scenario][d.name]
				drawBar(&out, d.name, d.colour, top, s, ok)
				top += barStep
			}
		}
		out.WriteString("</g>\n</g>\n")
		count++
	}
	out.WriteString("</svg>\n")
	_, err := out.WriteTo(w)
	return err
}

// at returns the position of a ratio on the scale.
func at(ratio float64) float64 { return min(max(ratio, 0), scaleEnd) / scaleEnd * plotWidth }

// drawBar draws one contender's median, and over it a line from the lowest
// ratio of a round to the highest, which shows how much small differences mean.
func drawBar(w io.Writer, name, colour string, top int, s spread, measured bool) {
	middle := float64(top) + barStep/2.0
	fmt.Fprintf(w, "<text x=\"-8\" y=\"%.1f\" class=\"name\">%s</text>", middle+4, name)
	if !measured { // in this scenario, or it failed
		fmt.Fprintf(w, "<text x=\"6\" y=\"%.1f\" class=\"soft\">–</text>\n", middle+4)
		return
	}
	end := at(s.Median)
	fmt.Fprintf(w, "<rect y=\"%.1f\" width=\"%.1f\" height=\"%d\" rx=\"1.5\" fill=\"%s\"/>", middle-barHeight/2, end, barHeight, colour)
	if s.Median > scaleEnd { // a gap says that the bar goes on
		fmt.Fprintf(w, "<path class=\"cut\" d=\"M%.1f %.1fl6 %d\"/>", end-14, middle+barHeight/2+1, -barHeight-2)
	} else if name != reference {
		fmt.Fprintf(w, "<path class=\"range\" d=\"M%.1f %.1fH%.1f\"/>", at(s.Min), middle, at(s.Max))
		end = max(end, at(s.Max))
	}
	fmt.Fprintf(w, "<text x=\"%.1f\" y=\"%.1f\" class=\"value\">%.2f</text>\n", end+6, middle+4, s.Median)
}

const svgHead = `<svg xmlns="http://www.w3.org/2000/svg" width="%[1]d" height="%[2]d" viewBox="0 0 %[1]d %[2]d" role="img" aria-labelledby="t d">
<title id="t">What a WebSocket proxy costs</title>
<desc id="d">CPU and memory as ratios to httputil.ReverseProxy, one panel for each scenario; shorter is better.</desc>
<style>
text { font: 12px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.head { font-size: 16px; font-weight: 600 }
.title { font-size: 13px; font-weight: 600 }
.soft { fill: #656d76 }
.name { text-anchor: end }
.value { paint-order: stroke; stroke: #fff; stroke-width: 3px }
.tick { font-size: 10px; fill: #656d76; text-anchor: middle }
.grid { stroke: #eaeef2 }
.one { stroke: #8c959f }
.range { stroke: #1f2328; stroke-opacity: .55 }
.cut { stroke: #fff; stroke-width: 3 }
</style>
<rect width="%[1]d" height="%[2]d" rx="6" fill="#fff" stroke="#d0d7de"/>
<text x="20" y="28" class="head">What a WebSocket proxy costs</text>
<text x="20" y="46" class="soft">Ratios to httputil.ReverseProxy in the same run: shorter is better. Bars are medians, lines the range; rounds: %[3]d.</text>
`
