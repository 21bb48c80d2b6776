package wstest

import (
	"context"
	"fmt"
	"os/exec"
)

// Build builds the program of a package, which is given as for go build in a
// directory, as this program was built: with the race detector, if it has it.
func Build(ctx context.Context, dir, of, program string) error {
	args := []string{"build", "-o", program}
	if Race {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, of)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", of, err, out)
	}
	return nil
}
