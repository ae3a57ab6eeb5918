package legacy

import (
	"encoding/json"
	"io"
	"net/http"
	"regexp"

	"github.com/mesolith/mesolith/clusterd/httpio"
)

// callback is what a JSONP function may be called; anything else could be a program.
var callback = regexp.MustCompile(`^[A-Za-z_$][A-Za-z0-9_$.]{0,127}$`)

// send answers with JSON, wrapped in a call when the query asks for JSONP.
func (h *handler) send(w http.ResponseWriter, r *http.Request, v any) {
	jsonp := r.URL.Query().Get("jsonp")
	media := httpio.JSON
	if jsonp != "" {
		if !callback.MatchString(jsonp) {
			httpio.Error(w, http.StatusBadRequest, "jsonp must be the name of a function")
			return
		}
		media = "text/javascript"
	}
	err := httpio.Send(w, r, media, func(out io.Writer) error {
		if jsonp == "" {
			return encode(out, v)
		}
		if _, err := io.WriteString(out, jsonp+"("); err != nil {
			return err
		}
		if err := encode(out, v); err != nil {
			return err
		}
		_, err := io.WriteString(out, ");")
		return err
	})
	if err != nil {
		h.Log.Info("answer not sent in full", "path", r.URL.Path, "error", err)
	}
}

func encode(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
