"""What a user holds: views, laid out in one of several ways, alone or in trees. Open `jacobian` first."""
